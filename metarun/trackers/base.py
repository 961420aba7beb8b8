"""What a tracker is: settings from a YAML file, and the session that they open for one run."""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from metarun.errors import UserError, require

Sent = dict[str, int]  # split -> meta-iteration of its last line that the tracker has


class Line(NamedTuple):
    """One line of a run's journal, as trackers get it.

    Attributes:
        split: train or val.
        step: meta-iterations done.
        values: name, such as ``val/accuracy`` -> a finite number.
        seconds: wall time of training.
    """

    split: str
    step: int
    values: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What a tracker may know of a run: nothing of the person's code, environment, paths or keys.

    Attributes:
        folder: the run folder, for files that the tracker writes into a folder of its own there.
        id: 32 hexadecimal digits, the same whenever the run is resumed.
        name: name of the run folder.
        group: name of the sweep; None: the run is not of a sweep.
        settings: dotted key -> value of every setting that affects the result.
        began: when the run began, in seconds since 1970.
    """

    folder: Path
    id: str
    name: str
    group: str | None
    settings: dict[str, object]
    began: float


class Session(ABC):
    """A tracker's connection for one run. Its methods may raise anything, and may take any time."""

    @abstractmethod
    def lines(self, lines: list[Line]) -> None:
        """Send lines of the journal, in their order. When it returns they are kept for good."""

    @abstractmethod
    def picture(self, name: str, file: Path, step: int) -> None:
        """Send a picture, a PNG file, as it is after ``step`` meta-iterations."""

    @abstractmethod
    def summary(self, numbers: dict[str, float], facts: dict[str, str]) -> None:
        """Send the final numbers, and the facts without which they cannot be compared."""

    def checkpoint(self, file: Path) -> None:  # noqa: B027 (a tracker may have no place for files)
        """Send a checkpoint. It is called only where the settings ask for checkpoints."""

    @abstractmethod
    def close(self) -> str:
        """End the session and return where the run can be seen, in words."""

    def abandon(self) -> None:  # noqa: B027 (most have nothing to do)
        """End the session after an error, so that nothing of it waits for a service when the process ends."""


@dataclass(kw_only=True, slots=True)
class Tracker(ABC):
    """Base class of trackers: one file and one class each, whose fields are the settings of its YAML file.

    Attributes:
        group: what runs are grouped by; None: the name of their sweep, if they are of one.
        patience: seconds that the end of a run waits for the tracker. What is not sent by then is sent by
            ``metarun track``, or when the run is resumed.
    """

    group: str | None
    patience: float

    needs: ClassVar[tuple[str, ...]] = ()  # modules that must be installed
    install: ClassVar[str] = ""  # how

    def __post_init__(self) -> None:
        require(0 < self.patience < 1e6, "patience", self.patience, "> 0, and less than a million")

    @property
    def live(self) -> bool:
        """Whether it keeps what is sent while the run goes on; if not, all is sent when the run ends or stops."""
        return True

    @property
    def takes_checkpoints(self) -> bool:
        """Whether to send the selected and the last checkpoint at the end."""
        return False

    def check(self, name: str) -> None:
        """Raise ``UserError`` where the tracker cannot work here. It is called before any work.

        Args:
            name: the tracker's option.
        """
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                raise UserError(f"tracker={name}: needs {module}, which is not installed: {self.install}")

    @abstractmethod
    def open(self, run: Tracked, sent: Sent) -> tuple[Session, Sent]:
        """Begin a run, or go on with one of the same id.

        Args:
            run: the run.
            sent: the lines that were sent before; empty for a new run.

        Returns:
            The session, and the lines that the tracker has. A tracker that cannot tell returns ``sent``.
        """


@dataclass(kw_only=True, slots=True)
class Service(Tracker):
    """Base class of trackers that send to a service with a person's key, or write a file for it when the run ends.

    Attributes:
        online: whether to send while the run goes on.
        checkpoints: whether to send the selected and the last checkpoint too.
    """

    online: bool
    checkpoints: bool

    key: ClassVar[str] = ""  # where its key comes from, in words

    @property
    def live(self) -> bool:
        return self.online

    @property
    def takes_checkpoints(self) -> bool:
        return self.checkpoints

    def check(self, name: str) -> None:
        Tracker.check(self, name)
        if self.online and not self.has_key():
            raise UserError(f"tracker.{name}.online=true: needs a key, in {self.key}")

    @abstractmethod
    def has_key(self) -> bool:
        """Whether there is a key; neither the person nor the service is asked."""


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment within the context, for a library that reads no other settings."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
