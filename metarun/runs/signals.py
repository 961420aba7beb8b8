"""SIGINT and SIGTERM: within the training loop they stop the run after the current step, elsewhere at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from metarun.errors import Interrupted


class StopSignals:
    """Context manager that handles signals during one run. ``received`` is the signal that has arrived, or None.

    Args:
        insist: whether a second signal stops the run at once, also within the training loop.
    """

    def __init__(self, insist: bool = True) -> None:
        self.insist = insist
        self.received: int | None = None
        self.wait = False  # set while the training loop runs: a step must not be interrupted
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # only the main thread receives signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        if (again and self.insist) or not self.wait:
            raise Interrupted(f"stopped by {signal.Signals(number).name}", number)
