from __future__ import annotations

from pathlib import Path

import pytest

from metarun import config
from metarun.runs.follow import followed
from metarun.runs.record import Record
from metarun.trackers.base import Tracker
from tests.support.runs import finish, write
from tests.support.trackers import events

pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'metarun[tensorboard]'")


@pytest.fixture
def tensorboard() -> dict[str, Tracker]:
    return config.compose(["tracker=tensorboard"])[0].tracker


def curve(run_dir: Path, name: str) -> list[tuple[int, float]]:
    return [(of.step, round(of.value, 6)) for of in events(run_dir).Scalars(name)]


def test_values_are_read_back(run_dir: Path, record: Record, tensorboard: dict[str, Tracker]) -> None:
    with followed(tensorboard, run_dir):
        write(run_dir, range(1, 5))
        finish(run_dir, record)
    found = events(run_dir)
    assert curve(run_dir, "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.333333), (4, 0.25)]
    assert curve(run_dir, "val/accuracy") == [(2, 0.02), (4, 0.04)]
    assert curve(run_dir, "val/ci95") == [(2, 0.01), (4, 0.01)]
    assert curve(run_dir, "test/accuracy/transductive") == [(4, 0.75)]
    (shown,) = found.Images("examples")
    assert (shown.step, shown.width, shown.height) == (0, 8, 6)
    texts = {
        name: found.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0] for name in ("settings", "result")
    }
    assert b"| algo.inner_steps | " in texts["settings"] and b"75.00 \xc2\xb1 1.00 %" in texts["result"]


def test_lines_that_were_written_and_not_marked_are_not_there_twice(
    run_dir: Path, tensorboard: dict[str, Tracker]
) -> None:
    """Killed between writing and marking: the memory is of an earlier moment than the event files."""
    with followed(tensorboard, run_dir):
        write(run_dir, range(1, 5))
    before = (run_dir / "tracked.json").read_bytes()
    with followed(tensorboard, run_dir):
        write(run_dir, range(5, 8), resume=4)
    (run_dir / "tracked.json").write_bytes(before)
    with followed(tensorboard, run_dir):
        write(run_dir, range(5, 9), resume=4)
    assert [step for step, _ in curve(run_dir, "train/loss")] == list(range(1, 9))
    assert [step for step, _ in curve(run_dir, "val/accuracy")] == [2, 4, 6, 8]
    assert len(events(run_dir).Images("examples")) == 1
