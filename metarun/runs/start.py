"""What a run that starts from given parameters (``init``) took of them, as ``config.json`` keeps it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from metarun.runs.held_out import IMAGENET, Facts, Trained, first, refuse_seen, sound

MOST = 6  # names in a printed line


@dataclass(frozen=True, kw_only=True)
class Start:
    """The parameters that a run starts from.

    Attributes:
        told: where they are from, in words.
        sha256: checksum of what was taken: names, shapes and values. It is part of the run's identity.
        taken: names of the run's meta-parameters that were taken.
        left: name in the source -> why it was not taken.
        new: names of the run's meta-parameters that begin as without ``init``.
        trained: everything that the parameters were trained on, the latest training first.
    """

    told: str
    sha256: str
    taken: list[str]
    left: dict[str, str]
    new: list[str]
    trained: list[Trained]

    def to_json(self) -> dict[str, Any]:
        """Return the content for a file."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> Start:
        """Convert the content of a file.

        Raises:
            TypeError: it is not what ``to_json`` makes.
            ValueError: the same.
        """
        trained = [Trained(**entry) for entry in content["trained"]]
        start = Start(**{**content, "trained": trained})
        texts = [start.told, start.sha256, *start.taken, *start.new, *start.left, *start.left.values()]
        if not trained or not all(type(text) is str for text in texts) or not all(sound(of.data) for of in trained):
            raise ValueError("start")
        return start

    def lines(self) -> list[str]:
        """Describe what was taken, what was not and why, as printed when a run begins."""
        why = defaultdict(list)
        for name, reason in self.left.items():
            why[reason].append(name)
        lines = [f"init: took {self.share()} from {self.told}"]
        lines += [f"  not taken: {first(names, MOST)} ({reason})" for reason, names in why.items()]
        return [*lines, *([f"  these begin as without init: {first(self.new, MOST)}"] if self.new else [])]

    def share(self) -> str:
        """Say how many of the run's parameters were taken."""
        return f"{len(self.taken)} of {len(self.taken) + len(self.new)} meta-parameters"

    def stamp(self) -> str:
        """Describe the start for the protocol of the run's numbers."""
        of = [name for name in dict.fromkeys(each.what for each in self.trained[1:])]
        before = f"; before that: {'; '.join(of)}" if of else ""
        unknown = any(each.data is None and each.kind != IMAGENET for each in self.trained)
        known = "; what they were trained on is not known, so test classes may be among it" if unknown else ""
        return f"{self.told}, {self.share()}, sha256 {self.sha256[:16]}{before}{known}"

    def refuse_seen(self, tested: Facts, kind: str, asked: dict[str, Any]) -> None:
        """Refuse a test on classes that these parameters were trained on or selected by.

        Args:
            tested: facts of the test's data.
            kind: module of the test's data set.
            asked: settings of the test's data set.

        Raises:
            UserError: there are such classes.
        """
        for trained in self.trained:
            refuse_seen(trained, tested, kind, asked, f"init: {trained.what}")
