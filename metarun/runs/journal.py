"""The run's journal: ``metrics.jsonl``, one JSON object a line, and the listeners that receive each line."""

from __future__ import annotations

import errno
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metarun.files import finite, read_file, write_atomic

NAME = "metrics.jsonl"
Line = dict[str, Any]
Listener = Callable[[Line], None]  # must not keep or change the line


class Journal:
    """Appends the lines of a run to ``metrics.jsonl`` and passes each of them to the listeners.

    Each line has ``step`` (meta-iterations done), ``split`` (train or val), ``seconds`` (wall time of training, summed
    over the parts of a resumed run) and the measured values. For train these are means over the steps since the
    previous line. A number that is not finite is null in the file, and nan when ``read`` returns it.

    Args:
        run_dir: the run folder.
        resume_step: meta-iterations of the checkpoint that the run resumes from, 0 for none. Later lines of the file
            are dropped: the run writes them again.
        keep: whether to write the file; false on every rank but the first.

    Raises:
        OSError: the disk refuses to write; the message names the file.
    """

    def __init__(self, run_dir: Path, resume_step: int, keep: bool = True):
        self._path = run_dir / NAME
        kept = [line for line in read(run_dir) if line["step"] <= resume_step]
        if keep and resume_step > 0 and all(line["step"] != resume_step for line in kept):  # written before the save
            warnings.warn(
                f"{self._path}: has no line of meta-iteration {resume_step}, the checkpoint's: lines are lost, so "
                "curves and training time are incomplete",
                stacklevel=2,
            )
        if keep:
            write_atomic(self._path, "".join(map(_text, kept)).encode())
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
        text = _text(line).encode()
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


def read(run_dir: Path) -> list[Line]:
    """Read the lines of a run's journal; an empty list where there is no file.

    Warns of lines that metarun did not write, and leaves them out. An incomplete last line is left out without a
    warning: the run was killed while writing it.
    """
    path = run_dir / NAME
    *texts, cut = (read_file(path) or b"").split(b"\n")
    parsed = [_parsed(text) for text in texts]
    if unknown := parsed.count(None):
        warnings.warn(f"{path}: left out {unknown} of its {len(parsed)} lines, which are not metarun's", stacklevel=2)
    return [line for line in (*parsed, _parsed(cut)) if line is not None]


def _parsed(text: bytes) -> Line | None:
    """Parse a line; None where it is not of the form that ``Journal`` writes."""
    try:
        line = json.loads(text.decode())
        known = type(line["step"]) is int and line["split"] in ("train", "val") and 0 <= line["seconds"] < float("inf")
        numbers = all(type(value) in (int, float, type(None)) for key, value in line.items() if key != "split")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if not (known and numbers):
        return None
    return {key: math.nan if value is None else value for key, value in line.items()}
