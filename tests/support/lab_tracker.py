"""A user's own tracker: one line of JSON in a file for all that it is sent. Tests copy it beside its YAML file."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.trackers.base import Line, Sent, Session, Tracked, Tracker


@dataclass(kw_only=True, slots=True)
class Lab(Tracker):
    """Writes to ``file``; a ``fault`` is what to do instead at the first lines: raise, hang or leave."""

    file: str
    fault: str
    at_end: bool

    @property
    def live(self) -> bool:
        return not self.at_end

    def open(self, run: Tracked, sent: Sent) -> tuple[Session, Sent]:
        session = Writes(Path(self.file), self.fault, run.name)
        known = [of["line"] for of in read(Path(self.file)) if "line" in of] if Path(self.file).exists() else []
        session.write("open", {"id": run.id, "name": run.name, "group": run.group, "settings": run.settings})
        return session, {split: step for split, step, *_ in known} if known else sent


class Writes(Session):
    def __init__(self, file: Path, fault: str, name: str):
        self.file, self.fault, self.name = file, fault, name

    def write(self, kind: str, what: Any) -> None:
        with open(self.file, "a") as file:
            file.write(json.dumps({kind: what}) + "\n")

    def lines(self, lines: list[Line]) -> None:
        if self.fault == "raise":
            raise ValueError("the lab is closed\nfor ever")
        if self.fault == "leave":
            raise SystemExit(7)
        if self.fault == "hang":
            time.sleep(10**6)
        for line in lines:
            self.write("line", line)

    def picture(self, name: str, file: Path, step: int) -> None:
        self.write("picture", [name, step, file.stat().st_size])

    def summary(self, numbers: dict[str, float], facts: dict[str, str]) -> None:
        self.write("summary", [numbers, facts])

    def close(self) -> str:
        self.write("close", self.name)
        return f"see {self.file}"


def read(file: Path) -> list[dict[str, Any]]:
    """All that was sent."""
    return [json.loads(line) for line in file.read_text().splitlines()]
