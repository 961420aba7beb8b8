from __future__ import annotations

import os
import signal

import pytest

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
