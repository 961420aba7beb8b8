"""The run's journal: ``metrics.jsonl``, one JSON object a line, and the listeners that receive each line."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from metarun.files import finite, read_file, write_atomic

NAME = "metrics.jsonl"
SEAL = "seal"  # the key under which a line has a checksum of itself and all lines before it; older files have none
Line = dict[str, Any]
End = tuple[int, str]  # meta-iteration and split of a line
Listener = Callable[[Line], None]  # must not keep or change the line


class Journal:
    """Appends the lines of a run to ``metrics.jsonl`` and passes each of them to the listeners.

    Each line has ``step`` (meta-iterations done), ``split`` (train or val), ``seconds`` (wall time of training, summed
    over the parts of a resumed run) and the measured values. For train these are means over the steps since the
    previous line. A number that is not finite is null in the file, and nan when ``read`` returns it. In the file each
    line has a ``seal`` too, by which ``read`` notices lines that were changed or lost.

    Args:
        run_dir: the run folder.
        resume_step: meta-iterations of the checkpoint that the run resumes from, 0 for none. Later lines of the file
            are dropped: the run writes them again.
        validated: meta-iteration of that run's last validation, 0 for none.
        keep: whether to write the file; false on every rank but the first.

    Raises:
        OSError: the disk refuses to write; the message names the file.
    """

    def __init__(self, run_dir: Path, resume_step: int, validated: int = 0, keep: bool = True):
        self._path = run_dir / NAME
        ends = [(resume_step, "train"), (validated, "val")] if keep else []  # written before the checkpoint
        kept = [line for line in read(run_dir, ends) if line["step"] <= resume_step]
        if keep:
            write_atomic(self._path, "".join(map(_text, kept)).encode())
        self._seal = next((line[SEAL] for line in reversed(kept) if SEAL in line), "")
        self._listeners: list[Listener] = []
        self._seconds_before = kept[-1]["seconds"] if kept else 0.0
        self._began = time.perf_counter()
        # unbuffered: each line is in the file at once, so closing writes nothing and cannot fail
        self._file = open(self._path if keep else os.devnull, "ab", buffering=0)  # noqa: SIM115 (close() closes it)

    def subscribe(self, listener: Listener) -> None:
        """Call ``listener`` with each further line, after the line is in the file."""
        self._listeners.append(listener)

    def write(self, step: int, split: str, measured: dict[str, Any]) -> None:
        """Write one line.

        Args:
            step: meta-iterations done.
            split: train or val.
            measured: name -> value.

        Raises:
            OSError: the disk refuses to write; the message names the file.
        """
        seconds = round(self._seconds_before + time.perf_counter() - self._began, 3)
        line = {"step": step, "split": split, **measured, "seconds": seconds}
        self._seal = _seal(self._seal, line)
        text = _text({**line, SEAL: self._seal}).encode()
        try:
            if self._file.write(text) < len(text):  # the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:  # add the file name
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        for listener in self._listeners:
            listener(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _text(line: Line) -> str:
    return json.dumps(finite(line), allow_nan=False) + "\n"


def read(run_dir: Path, ends: Iterable[End] = ()) -> list[Line]:
    """Read the lines of a run's journal; an empty list where there is no file.

    Warns of lines that metarun did not write, which are left out, and of lines that were changed or lost. An incomplete
    last line is left out without a warning: the run was killed while writing it.

    Args:
        run_dir: the run folder.
        ends: lines that the run has certainly written; those of meta-iteration 0 do not count.
    """
    path = run_dir / NAME
    *texts, cut = (read_file(path) or b"").split(b"\n")
    parsed = [_parsed(text) for text in texts]
    lines = [line for line in (*parsed, _parsed(cut)) if line is not None]
    said = []
    if unknown := parsed.count(None):
        said.append(f"left out {unknown} of its {len(parsed)} lines, which are not metarun's")
    if loose := _first_loose(lines):
        said.append(
            f"lines were changed or lost, the first at meta-iteration {loose['step']} or before: curves and training "
            "time may be wrong"
        )
    there = {(line["step"], line["split"]) for line in lines}
    said += [
        f"has no {split} line of meta-iteration {step}, which the run had done: lines are lost, so curves and training "
        "time lack a part"
        for step, split in ends
        if step > 0 and (step, split) not in there
    ]
    for text in said:
        warnings.warn(f"{path}: {text}", stacklevel=1)  # said once, however many parts of a command read it
    return lines


class Tail:
    """Reads the lines of a run's journal while the run writes them, each once, or again where the file is made anew.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path):
        self._path = run_dir / NAME
        self._at, self._file = 0, 0  # the byte behind the last line that was read, and the file that it is of

    def read(self, most: int = 2**18) -> list[Line]:
        """Return the next whole lines, of at most ``most`` bytes; an empty list where there are none yet.

        What is not metarun's is left out.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            file = open(self._path, "rb")  # noqa: SIM115 (the with statement below closes it)
        except FileNotFoundError:
            return []
        with file:
            now = os.fstat(file.fileno())
            if now.st_ino != self._file or now.st_size < self._at:  # a run that resumes writes the file anew
                self._at, self._file = 0, now.st_ino
            file.seek(self._at)
            lines: list[Line] = []
            while not lines:
                whole, end, _ = file.read(most).rpartition(b"\n")
                if not end:
                    break
                self._at += len(whole + end)
                file.seek(self._at)
                lines = [line for text in whole.split(b"\n") if (line := _parsed(text)) is not None]
        return lines


def _first_loose(lines: list[Line]) -> Line | None:
    """Find the first line whose seal does not fit: it was changed, or a line before it was lost."""
    before = ""
    for line in lines:
        if (before or SEAL in line) and line.get(SEAL) != _seal(before, line):
            return line
        before = line.get(SEAL, before)
    return None


def _seal(before: str, line: Line) -> str:
    """Compute the seal of a line behind one with the seal ``before``; a seal that the line has is not read."""
    return hashlib.sha256(_text({**line, SEAL: before}).encode()).hexdigest()[:16]


def _parsed(text: bytes) -> Line | None:
    """Parse a line; None where it is not of the form that ``Journal`` writes."""
    try:
        line = json.loads(text.decode())
        known = type(line["step"]) is int and line["split"] in ("train", "val") and 0 <= line["seconds"] < float("inf")
        rest = [value for key, value in line.items() if key not in ("split", SEAL)]
        numbers = all(map(_is_number, rest)) and type(line.get(SEAL, "")) is str
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if not (known and numbers):
        return None
    return {key: math.nan if value is None else value for key, value in line.items()}


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold, or null, which stands for one that is not finite."""
    return value is None or type(value) is float or (type(value) is int and abs(value) < 2**1023)
