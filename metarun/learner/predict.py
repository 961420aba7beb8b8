"""Predict picture files: a line for each in a CSV file, and accuracy where folders state the truth."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarun.core.batch_norm import Mixing, Norm
from metarun.core.intervals import wilson
from metarun.errors import ConfigError
from metarun.files import write_text
from metarun.learner.adapted import Adapted
from metarun.learner.pictures import Picture
from metarun.results.result import norm_in_words

WIDEST = 12  # classes of a confusion table that a terminal shows


@dataclass(frozen=True)
class Predictions:
    """Pictures with the probabilities of their classes.

    Attributes:
        classes: the classes, in order.
        pictures: the pictures that could be read.
        probabilities: [pictures, N].
        unreadable: the others.
    """

    classes: list[str]
    pictures: list[Picture]
    probabilities: np.ndarray
    unreadable: list[Picture]

    @property
    def labels(self) -> list[int]:
        """The predicted class of each picture, as its place in ``classes``."""
        return self.probabilities.argmax(1).tolist()

    @property
    def tested(self) -> list[tuple[int, int]]:
        """(true, predicted) class of each picture that tests the prediction: of known truth, not in the support set."""
        pairs = zip(self.pictures, self.labels, strict=True)
        return [(self.classes.index(p.truth), guess) for p, guess in pairs if p.truth is not None and not p.of_support]

    @property
    def confusion(self) -> np.ndarray:
        """Counts [N, N]: rows are true classes, columns predicted ones."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for true, guess in self.tested:
            counts[true, guess] += 1
        return counts


def predicted(adapted: Adapted, pictures: list[Picture], norm: Norm) -> Predictions:
    """Predict pictures.

    Args:
        adapted: one adapted task.
        pictures: the pictures, unreadable ones too.
        norm: whose statistics batch norm uses.

    Raises:
        ConfigError: the statistics would be those of too few pictures.
    """
    classes = [str(name) for name in adapted.classes or ()]
    kept = [picture for picture in pictures if picture.pixels is not None]
    if norm is Norm.transductive and adapted.setup.mixing is not Mixing.none:
        if len(kept) < 2 * len(classes):
            few = f"for {len(kept)} pictures; fewer than {2 * len(classes)} have no statistics"
            raise ConfigError("eval.norm", norm.name, f"support or support_plus_one {few}")
        warnings.warn("eval.norm=transductive: each prediction depends on the other pictures", stacklevel=2)
    chances = np.zeros((0, len(classes)), np.float32)
    if kept:
        chances = adapted.predict_proba(np.stack([p.pixels for p in kept if p.pixels is not None]), norm)
    return Predictions(classes, kept, chances, [picture for picture in pictures if picture.pixels is None])


def write(found: Predictions, path: Path) -> None:
    """Write ``file,label,probability,P(class)...,truth,reason``, a line for each picture, sorted by file.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    columns = [f"P({name})" for name in found.classes]
    lines.writerow(["file", "label", "probability", *columns, "truth", "reason"])
    rows = sorted(_rows(found), key=lambda row: str(row[0]))
    lines.writerows(rows)
    write_text(path, text.getvalue())


def _rows(found: Predictions) -> Iterator[list[Any]]:
    for picture, label, row in zip(found.pictures, found.labels, found.probabilities, strict=True):
        chances = [f"{chance:.6f}" for chance in row]
        reason = "in the support set" if picture.of_support else ""
        yield [picture.path, found.classes[label], chances[label], *chances, picture.truth or "", reason]
    for picture in found.unreadable:
        yield [picture.path, "", "", *[""] * len(found.classes), picture.truth or "", f"unreadable: {picture.reason}"]


def write_confusion(found: Predictions, path: Path) -> None:
    """Write the confusion table as CSV: a line for each true class, a column for each predicted one."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["truth", *found.classes])
    lines.writerows([name, *row] for name, row in zip(found.classes, found.confusion.tolist(), strict=True))
    write_text(path, text.getvalue())


def summary(adapted: Adapted, found: Predictions, norm: Norm) -> str:
    """Describe in a few lines what was predicted, how, and how well where the truth is known."""
    count, way, names = len(adapted.support.support_y[0]), len(found.classes), adapted.record.names
    statistics = "" if adapted.setup.mixing is Mixing.none else f", norm {norm_in_words(norm)}"
    lines = [
        f"{len(found.pictures)} pictures, {way} classes; adapted to {count} support pictures in {adapted.steps} inner "
        f"steps from {adapted.run} ({names['algo']}, {names['model']}){statistics}"
    ]
    if known := sum(picture.of_support for picture in found.pictures):
        lines.append(f"{known} of them in the support set: predicted, and not counted in an accuracy")
    if tested := found.tested:
        right = sum(true == guess for true, guess in tested)
        low, high = wilson(right, len(tested))
        lines.append(
            f"accuracy: {100 * right / len(tested):.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f} over "
            f"pictures, for this support set: {right} of the {len(tested)} in folders named like classes"
        )
        if way <= WIDEST:
            lines.append(_table(found))
    return "\n".join(lines)


def _table(found: Predictions) -> str:
    """The confusion table as text."""
    first = max(len(name) for name in (*found.classes, "truth"))
    wide = [max(len(name), 5) for name in found.classes]
    head = f"{'truth':{first}} " + " ".join(f"{name:>{w}}" for name, w in zip(found.classes, wide, strict=True))
    rows = [
        f"{name:{first}} " + " ".join(f"{count:>{w}}" for count, w in zip(row, wide, strict=True))
        for name, row in zip(found.classes, found.confusion.tolist(), strict=True)
    ]
    return "\n".join(["predicted (columns) of each true class (rows):", head, *rows])
