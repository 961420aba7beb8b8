"""The run's journal: ``metrics.jsonl``, one JSON object a line, and who else wants to hear."""

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
Listener = Callable[[Line], None]  # it must not keep or change the line


class Journal:
    """What a run says while it runs: appends a line to the file and hands it to those that listen.

    On resume it drops the lines after the checkpoint's step: the run is about to write them again. Each line has
    ``step`` (meta-iterations done), ``split`` (train or val), ``seconds`` (wall time of training, over all of the run's
    parts) and what was measured: means over the steps since the line before for train. A number that is not finite is
    null there, and nan for who reads it here.
    Without ``keep`` nothing is written. Raises ``OSError`` that names the file where the disk does not take it.
    """

    def __init__(self, run_dir: Path, resume_step: int, keep: bool = True):
        self._path = run_dir / NAME
        kept = [line for line in read(run_dir) if line["step"] <= resume_step]
        if keep and resume_step > 0 and all(line["step"] != resume_step for line in kept):  # written before it is saved
            warnings.warn(
                f"{self._path}: has no line of meta-iteration {resume_step}, which the checkpoint is of: lines are "
                "lost, so curves and training time lack a part",
                stacklevel=2,
            )
        if keep:
            write_atomic(self._path, "".join(map(_text, kept)).encode())
        self._listeners: list[Listener] = []
        self._seconds_before = kept[-1]["seconds"] if kept else 0.0
        self._began = time.perf_counter()
        # unbuffered: a line is in the file at once, and none is left to fail when it is closed
        self._file = open(self._path if keep else os.devnull, "ab", buffering=0)  # noqa: SIM115 (close() closes it)

    def subscribe(self, listener: Listener) -> None:
        """Have every further line handed to ``listener`` too, once it is in the file."""
        self._listeners.append(listener)

    def write(self, step: int, split: str, measured: dict[str, Any]) -> None:
        seconds = round(self._seconds_before + time.perf_counter() - self._began, 3)
        line = {"step": step, "split": split, **measured, "seconds": seconds}
        text = _text(line).encode()
        try:
            if self._file.write(text) < len(text):  # as much as the disk took
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:  # it names no file
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        for listener in self._listeners:
            listener(line)

    def close(self) -> None:
        self._file.close()


def _text(line: Line) -> str:
    return json.dumps(finite(line), allow_nan=False) + "\n"


def read(run_dir: Path) -> list[Line]:
    """The lines of a run's log, none if it has none. Warns of lines that are none of metarun's, and leaves them out.

    The last one without its end is what a kill cut short, and no news.
    """
    path = run_dir / NAME
    *texts, cut = (read_file(path) or b"").split(b"\n")
    parsed = [_parsed(text) for text in texts]
    if unknown := parsed.count(None):
        warnings.warn(f"{path}: left out {unknown} of its {len(parsed)} lines, which are not metarun's", stacklevel=2)
    return [line for line in (*parsed, _parsed(cut)) if line is not None]


def _parsed(text: bytes) -> Line | None:
    """A line as ``Journal`` writes it, None for any other."""
    try:
        line = json.loads(text.decode())
        known = type(line["step"]) is int and line["split"] in ("train", "val") and 0 <= line["seconds"] < float("inf")
        numbers = all(type(value) in (int, float, type(None)) for key, value in line.items() if key != "split")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if not (known and numbers):
        return None
    return {key: math.nan if value is None else value for key, value in line.items()}
