from __future__ import annotations

from pathlib import Path

from metarun import log
from metarun.log import MetricsLog


def test_lines_come_back(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path, 0)
    metrics.write(10, "train", {"loss": 0.5})
    assert [line["loss"] for line in log.read(tmp_path)] == [0.5]  # before it is closed, too
    metrics.close()
    assert log.read(tmp_path / "nowhere") == []


def test_resume_forgets_what_will_be_written_again(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path, 0)
    for step in (10, 20, 30):
        metrics.write(step, "train", {"loss": 1.0})
    metrics.close()
    with open(tmp_path / log.NAME, "a") as file:
        file.write('{"step": 40, "spl')  # a kill in the middle of a line
    again = MetricsLog(tmp_path, 20)
    again.write(30, "train", {"loss": 2.0})
    again.close()
    lines = log.read(tmp_path)
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (20, 1.0), (30, 2.0)]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
