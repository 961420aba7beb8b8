"""What a run leaves, and folders as a run leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from metarun.results import result_file
from metarun.runs import meta_test
from metarun.runs.journal import Journal
from metarun.runs.record import Record
from tests.support.results import result

FIGURES, REAL = "metarun.runs.meta_test.figures", meta_test.figures


@contextmanager
def no_figures() -> Iterator[None]:
    """Runs within, in this process, draw no figures, which take a short one half its time; they write their pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FIGURES, lambda *_: {})
        yield


@contextmanager
def drawn() -> Iterator[None]:
    """Within ``no_figures``: runs draw them all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FIGURES, REAL)
        yield


def outcome(run_dir: Path) -> tuple[dict[str, bytes], list[dict], list[dict]]:
    """Everything of a run that must not hang on how often it was interrupted."""
    checkpoints = {path.name: path.read_bytes() for path in (run_dir / "checkpoints").glob("*.pt")}
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
        line.pop("tasks_per_s", None)
        line.pop("seal")  # of the times, too
    return checkpoints, lines, json.loads((run_dir / "result.json").read_text())["scores"]


def write(run_dir: Path, steps: range, resume: int = 0) -> None:
    """Train lines of these steps, and a val line at every second one, as a run that goes on from ``resume`` does."""
    metrics = Journal(run_dir, resume, resume)
    for step in steps:
        metrics.write(step, "train", {"loss": 1 / step, "accuracy": float("nan")})
        if step % 2 == 0:
            metrics.write(step, "val", {"accuracy": step / 100, "ci95": 0.01})
    metrics.close()


def finish(run_dir: Path, record: Record) -> None:
    """A result of the folder's own configuration: accuracy 0.75 ± 0.01."""
    result_file.write(run_dir / "result.json", replace(result(mean=0.75), config_hash=record.hash()))
