from __future__ import annotations

import builtins
import os
import signal
from typing import Any

import pytest

from metarun import __main__
from metarun.cli import main as cli
from metarun.errors import Interrupted
from metarun.runs.signals import StopSignals


def test_outside_a_step_a_signal_stops_at_once() -> None:
    with pytest.raises(Interrupted) as caught, StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.status == 143


def test_inside_a_step_the_first_waits_and_the_second_stops() -> None:
    with StopSignals() as stop:
        stop.wait = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_without_insisting_the_second_waits_too() -> None:
    with StopSignals(insist=False) as stop:
        stop.wait = True
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_a_run_a_signal_is_one_line_too(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the jobs of a sweep, and in the commands that train nothing."""

    def stopped(*_: object) -> int:
        signal.raise_signal(number)
        return 0

    before = signal.getsignal(number)
    monkeypatch.setattr("metarun.cli.report.run", stopped)
    try:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else before)  # not the end of the tests
        assert cli.main(["report"]) == 128 + number
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == f"metarun: stopped by {number.name}\n"


def test_ctrl_c_while_it_is_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def interrupted(name: str, *rest: Any) -> Any:
        if name == "metarun.cli.main":
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as stop:
        __main__.run()
    assert stop.value.code == 130 and capsys.readouterr().err == "metarun: stopped\n"
