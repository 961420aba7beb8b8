"""``tracked.json``: what each tracker has been sent of a run."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarun.errors import UserError
from metarun.files import read_file, write_json
from metarun.runs import journal
from metarun.trackers.base import Sent

NAME = "tracked.json"


@dataclass
class Known:
    """What one tracker has of a run, as ``tracked.json`` keeps it.

    Attributes:
        id: the run's id there.
        place: hash of the run folder's path: a folder that was copied or moved is another run.
        began: when the run began, in seconds since 1970.
        group: name of the run's group; None: it is of none.
        lines: split -> meta-iteration of the last line that was sent.
        files: name of each file that was sent -> its hash.
    """

    id: str
    place: str
    began: float
    group: str | None
    lines: Sent = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


class Memory:
    """The file ``tracked.json`` of a run folder.

    Args:
        run_dir: the run folder.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, run_dir: Path):
        self._run_dir, self._path, self._lock = run_dir, run_dir / NAME, threading.Lock()
        data = read_file(self._path)
        try:
            self._of: dict[str, dict[str, Any]] = json.loads(data) if data is not None else {}
            self._known = {name: Known(**of) for name, of in self._of.items()}
            _require_whole(self._known.values())
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{self._path}: damaged; without it, trackers get all of this run again") from None

    def of(self, name: str, group: str | None) -> Known:
        """Return what a tracker has; for one that has nothing, with a new id.

        Args:
            name: the tracker's option.
            group: name of the run's group.
        """
        place = digest(str(self._run_dir.resolve()).encode(errors="surrogateescape"))
        known = self._known.get(name)
        if known is not None and known.place == place:
            known.group = group or known.group
            return known
        lines = journal.Tail(self._run_dir).read()
        began = (self._run_dir / journal.NAME).stat().st_mtime - lines[-1]["seconds"] if lines else time.time()
        return Known(uuid.uuid4().hex, place, round(began, 3), group)

    def keep(self, name: str, known: Known) -> None:
        """Write what a tracker has."""
        with self._lock:
            self._of[name] = {**vars(known), "lines": dict(known.lines), "files": dict(known.files)}
            write_json(self._path, self._of)


def _require_whole(known: Iterable[Known]) -> None:
    """Raise ``TypeError`` where the types are not those of ``Known``; JSON does not check them."""
    for of in known:
        steps, hashes = of.lines.values(), of.files.values()
        if any(type(step) is not int for step in steps) or any(type(text) is not str for text in hashes):
            raise TypeError(of)


def digest(data: bytes) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()[:16]
