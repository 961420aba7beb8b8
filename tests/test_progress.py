"""Progress: a bar on a terminal, lines in a log, silence where nobody asked."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from metarun import config
from metarun.progress import EVERY, progress_bar
from metarun.verify import speed


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def test_a_log_has_a_line_every_half_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(desc="meta-train", unit="step", total=100, leave=True) as bar:
        for _ in range(100):
            clock.now += 1
            bar.update()
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert len(lines) == 100 // int(EVERY)
    assert lines[0] == "meta-train: step 30 of 100, 00:30 gone, 01:10 left"
    assert "\r" not in written


def test_short_work_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress_bar(range(1000), desc="preparing", unit="image", leave=True):
        clock.now += 0.02
    assert capsys.readouterr().err == ""


def test_refresh_is_a_line_at_once_and_begins_a_new_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(desc="meta-train", unit="step", total=100) as bar:
        for step in range(1, 56):
            clock.now += 1
            bar.update()
            if step == 25:
                bar.set_postfix({"val accuracy": "0.9"})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["meta-train: step 25 of 100", "meta-train: step 55 of 100"]
    assert lines[0].endswith("val accuracy=0.9")


def test_silence(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(desc="", unit="task", total=3, show=False) as bar:
        for _ in range(3):
            clock.now += 100
            bar.update()
            bar.set_postfix({"loss": 1})
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen: Any = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_bar(desc="meta-train", unit="step", total=2, leave=True) as bar:
        for _ in range(2):
            clock.now += 1
            bar.update()
    assert "\rmeta-train: 100%" in screen.getvalue()


def test_a_short_bench_writes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    experiment, _ = config.compose(["dataset=sinusoid", "model.hidden=[4]", "meta_batch=2", "device.compile=false"])
    speed.measure(experiment, 0.05, compare=False)
    assert capsys.readouterr().err == ""
