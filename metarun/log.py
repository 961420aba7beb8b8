"""The run's log: ``metrics.jsonl``, one JSON object a line."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from metarun.files import write_atomic

NAME = "metrics.jsonl"


class MetricsLog:
    """Appends lines. On resume, drops those after the checkpoint's step: the run is about to write them again.

    Each line has ``step`` (meta-iterations done), ``split`` (train or val), ``seconds`` (wall time of training, over
    all of the run's parts) and what was measured: means over the steps since the line before for train.
    Without ``keep`` nothing is written.
    """

    def __init__(self, run_dir: Path, resume_step: int, keep: bool = True):
        path = run_dir / NAME
        kept = [line for line in read(run_dir) if line["step"] <= resume_step]
        if keep:
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._seconds_before = kept[-1]["seconds"] if kept else 0.0
        self._began = time.perf_counter()
        self._file = open(path if keep else os.devnull, "a", encoding="utf-8")  # noqa: SIM115 (close() closes it)

    def write(self, step: int, split: str, measured: dict[str, Any]) -> None:
        seconds = round(self._seconds_before + time.perf_counter() - self._began, 3)
        self._file.write(json.dumps({"step": step, "split": split, **measured, "seconds": seconds}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, none if it has none; a line that a kill cut short ends it."""
    path = run_dir / NAME
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
