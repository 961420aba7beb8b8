"""Trackers follow a run: each, in a thread of its own, reads the run's folder and sends what it has not sent before.

The file is the queue: training writes ``metrics.jsonl`` as ever, and waits for no tracker. What a tracker has been sent
is kept in ``tracked.json``. A run that resumes writes the same lines again, so that those up to there are left out.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from metarun.files import read_file
from metarun.results import report, result_file
from metarun.results.final import final
from metarun.runs import checkpoint, journal
from metarun.runs.folder import RESULT, finished, locked
from metarun.runs.record import Record
from metarun.runs.tracked import Memory, digest
from metarun.trackers.base import Line, Session, Tracked, Tracker

POLL = 1.0  # seconds between two looks at the file


class Follower(threading.Thread):
    """The thread of one tracker. Whatever the tracker does, it ends in ``where`` or in ``problem``.

    Args:
        name: the tracker's option.
        tracker: the tracker.
        run_dir: the run folder.
        memory: what has been sent.
        going: whether the run goes on beside it; if not, a session is opened only where there is something to send.

    Attributes:
        where: where the run can be seen, in words; empty until all is sent, and where there was nothing to send.
        problem: why not all was sent; empty where all was.
    """

    def __init__(self, name: str, tracker: Tracker, run_dir: Path, memory: Memory, going: bool):
        super().__init__(name=f"tracker {name}", daemon=True)
        self.option, self.tracker, self.run_dir, self.going = name, tracker, run_dir, going
        self.where, self.problem = "", ""
        self._memory, self._known = memory, memory.of(name, tracker.group)
        self._record = Record.read(run_dir)
        self._session: Session | None = None
        # as this thread has it: other threads may be within warnings.catch_warnings, which holds for all threads
        self._show = warnings.showwarning
        self._tail, self._ended, self._one = journal.Tail(run_dir), threading.Event(), threading.Lock()

    def run(self) -> None:
        """Follow the run until it ends."""
        try:
            self._follow()
        except BaseException as error:  # libraries of trackers raise anything, SystemExit too
            text = str(error).strip() or type(error).__name__
            self.fail(text.splitlines()[0])
            if self._session is not None:
                with contextlib.suppress(BaseException):
                    self._session.abandon()

    def end(self) -> None:
        """Say that the run writes nothing any more."""
        self._ended.set()

    def fail(self, why: str) -> None:
        """Note the first problem. Warn of it at once, where the run goes on."""
        with self._one:
            if self.problem or self.where:
                return
            self.problem = f"tracker={self.option}: {why}"
        if self.going:
            rest = f"metarun track {self.run_dir} tracker={self.option}"
            text = f"{self.problem}; the run is not affected, and {rest} sends the rest"
            self._show(UserWarning(text), UserWarning, __file__, 0)

    def _follow(self) -> None:
        if not self.tracker.live:
            self._ended.wait()
        if (self._ended.is_set() or not self.going) and not self._anything():
            return
        known, record = self._known, self._record
        assert record is not None, "a run folder has a record"
        settings = {key: value for key, value in record.identity().items() if not _is_place(key, value)}
        run = Tracked(
            folder=self.run_dir,
            id=known.id,
            name=self.run_dir.resolve().name,
            group=known.group,
            settings=settings,
            began=known.began,
        )
        self._memory.keep(self.option, known)
        session, known.lines = self.tracker.open(run, dict(known.lines))
        self._session = session
        self._pictures(session, [report.EXAMPLES])
        while True:
            over = self._ended.wait(POLL)
            while lines := self._tail.read():
                self._send(session, lines)
            if over:
                break
        self._pictures(session, report.CAPTIONS)
        self._result(session)
        where = session.close()
        self._memory.keep(self.option, known)
        with self._one:
            self.where = "" if self.problem else where

    def _keep(self) -> None:
        if self.tracker.live:  # else nothing is certain before the session is closed
            self._memory.keep(self.option, self._known)

    def _send(self, session: Session, lines: list[journal.Line]) -> None:
        """Send lines of the journal that were not sent before."""
        sent = self._known.lines
        new = [line for line in lines if line["step"] > sent.get(line["split"], -1)]
        if new:
            session.lines([_line(line) for line in new])
            sent.update({line["split"]: line["step"] for line in new})
            self._keep()

    def _pictures(self, session: Session, names: Iterable[str]) -> None:
        for name in names:
            if new := self._unsent(name):
                step = 0 if name == report.EXAMPLES else max(self._known.lines.values(), default=0)
                session.picture(name, self.run_dir / name, step)
                self._known.files[name] = new
                self._keep()

    def _result(self, session: Session) -> None:
        """Send the final numbers of a finished run, and checkpoints where they are asked for."""
        new = self._unsent(RESULT)
        if not new or not finished(self.run_dir):
            return
        if self.tracker.takes_checkpoints:
            for file in self._checkpoints():
                session.checkpoint(file)
        session.summary(*final(result_file.read(self.run_dir / RESULT)))
        self._known.files[RESULT] = new

    def _checkpoints(self) -> list[Path]:
        files = [checkpoint.folder(self.run_dir) / name for name in (checkpoint.BEST, checkpoint.LAST)]
        return [file for file in files if file.exists()]

    def _anything(self) -> bool:
        """Whether there is anything that was not sent."""
        if any(self._unsent(name) for name in report.CAPTIONS) or (self._unsent(RESULT) and finished(self.run_dir)):
            return True
        tail, sent = journal.Tail(self.run_dir), self._known.lines
        while lines := tail.read():
            if any(line["step"] > sent.get(line["split"], -1) for line in lines):
                return True
        return False

    def _unsent(self, name: str) -> str:
        """Return the hash of a file of the run folder; empty where there is none, or it was sent as it is."""
        data = read_file(self.run_dir / name)
        now = digest(data) if data is not None else ""
        return "" if now == self._known.files.get(name) else now


def _is_place(key: str, value: object) -> bool:
    """Whether a setting says where a person keeps files. Such settings are not sent."""
    as_a_path = isinstance(value, str) and ("/" in value or "\\" in value)
    return key == "dataset.path" or (as_a_path and key != "recipe.name")


def _line(line: journal.Line) -> Line:
    """Convert a line of the journal. A number that is not finite is left out: a curve has a gap there."""
    split = line["split"]
    others = {key: value for key, value in line.items() if key not in ("step", "split", "seconds", journal.SEAL)}
    values = {f"{split}/{key}": float(value) for key, value in others.items() if math.isfinite(value)}
    return Line(split, line["step"], values, line["seconds"])


@contextmanager
def followed(trackers: dict[str, Tracker], run_dir: Path, going: bool = True) -> Iterator[list[Follower]]:
    """Let trackers follow a run within the context, and wait at its end until they have sent the rest.

    SIGTERM and a second Ctrl-C wait for none.

    Args:
        trackers: option -> tracker.
        run_dir: the run folder, with its ``config.json``.
        going: whether the run goes on within the context.

    Yields:
        The trackers' threads.

    Raises:
        UserError: ``tracked.json`` is damaged.
    """
    memory = Memory(run_dir) if trackers else None
    followers = [Follower(name, of, run_dir, memory, going) for name, of in trackers.items() if memory]
    for follower in followers:
        follower.start()
    try:
        yield followers
    except BaseException as error:
        at_once = isinstance(error, KeyboardInterrupt) and getattr(error, "status", 0) != 130
        _end(followers, wait=not at_once)
        raise
    _end(followers)


def _end(followers: list[Follower], wait: bool = True) -> None:
    """Let followers send the rest, and wait for each as long as its tracker's patience."""
    for follower in followers:
        follower.end()
    began = time.monotonic()
    for follower in followers if wait else ():
        patience = follower.tracker.patience
        follower.join(max(0.0, began + patience - time.monotonic()))
        if follower.is_alive():
            follower.fail(f"does not answer within {patience:g} seconds (tracker.{follower.option}.patience)")
        if follower.where:
            print(f"tracker={follower.option}: {follower.where}")


def send(trackers: dict[str, Tracker], run_dir: Path) -> list[str]:
    """Send what trackers do not have of a run that no process works on, and print a line about each.

    Args:
        trackers: option -> tracker.
        run_dir: the run folder.

    Returns:
        Why not all was sent, for each tracker that failed.

    Raises:
        UserError: a file of the folder is damaged.
    """
    with locked(run_dir) as free:
        if not free:
            return [f"{run_dir}: another process is running in this folder"]
        with followed(trackers, run_dir, going=False) as followers:
            pass
    for follower in followers:
        if not follower.where and not follower.problem:
            print(f"tracker={follower.option}: has all of {run_dir} already")
    return [f"{run_dir}: {follower.problem}" for follower in followers if follower.problem]
