"""Normalisation of a user's rows: mean and deviation of the meta-training rows, applied to all."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarun.errors import UserError

AT_ONCE = 4096  # rows that are float64 at the same time


class Normalise(enum.Enum):
    """Which numbers of an example share a mean and a deviation.

    Attributes:
        none: nothing is normalised.
        each: every number of an example has its own, as the columns of a table.
        channel: those of a channel, the first axis of an example; an example of one axis is one channel.
    """

    none = "none"
    each = "each"
    channel = "channel"

    def axes(self, axes: int) -> tuple[int, ...]:
        """Return the axes of an array of rows, of so many axes, over which a mean is taken."""
        return (0,) if self is Normalise.each else (0, *range(min(2, axes - 1), axes))


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation of the numbers of an example.

    Attributes:
        mean: float64, of a shape that broadcasts with an example.
        deviation: the same; positive.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @staticmethod
    def of(x: np.ndarray, rows: np.ndarray, how: Normalise, names: list[str], what: str) -> Scaling:
        """Measure the rows of meta-training.

        Args:
            x: [rows, ...] numbers.
            rows: int64, the rows of meta-training.
            how: which numbers share a mean.
            names: names of the numbers, of an example of one axis; empty: they are called ``what`` and their place.
            what: what these numbers are, for the message.

        Raises:
            UserError: a number does not change, or so much or little that its deviation is no float64.
        """
        axes = how.axes(x.ndim)
        parts = [x[some].astype(np.float64) for some in _some(rows[:1])]
        low = high = parts[0].min(axes, keepdims=True)
        total = np.zeros_like(low)
        for some in _some(rows):
            part = x[some].astype(np.float64)
            low, high = np.minimum(low, part.min(axes, keepdims=True)), np.maximum(high, part.max(axes, keepdims=True))
            total += part.sum(axes, keepdims=True)
        if (low == high).any():
            name, at = _name(np.argwhere((low == high)[0])[0].tolist(), low.shape[1:], names, what)
            said = f"{name} has the same value, {low[0][at]:g}, in all {len(rows)} meta-training rows"
            others = "" if names else ", or share a mean by another dataset.normalise"
            raise UserError(f"dataset: {said}, so it tells nothing; leave it out{others}")
        count = len(rows) * int(np.prod([x.shape[axis] for axis in axes[1:]]))
        mean = total / count
        square = np.zeros_like(low)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # looked for below
            for some in _some(rows):
                square += np.square(x[some] - mean).sum(axes, keepdims=True)
        deviation = np.sqrt(square / count)
        unfit = ~(np.isfinite(deviation) & (deviation > 0))
        if unfit.any():
            name, at = _name(np.argwhere(unfit[0])[0].tolist(), low.shape[1:], names, what)
            span = f"{low[0][at]:g} to {high[0][at]:g}"
            raise UserError(
                f"dataset: {name} goes from {span} in meta-training rows, too far or too little for float64"
            )
        return Scaling(mean[0], deviation[0])

    @staticmethod
    def read(content: dict[str, Any]) -> Scaling:
        """Make it from ``plain``."""
        return Scaling(*(np.array(content[name], np.float64) for name in ("mean", "deviation")))

    def plain(self) -> dict[str, Any]:
        """Return mean and deviation as lists, for JSON, from which ``read`` makes the same bits."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}


def scaled(x: np.ndarray, scaling: Scaling | None) -> np.ndarray:
    """Return rows as float32, less the mean and in deviations; None: as they are.

    Raises:
        UserError: a number is too large.
    """
    out = np.empty(x.shape, np.float32)
    for some in _some(np.arange(len(x))):
        part = x[some].astype(np.float64)
        part = part if scaling is None else (part - scaling.mean) / scaling.deviation
        if np.abs(part).max() > np.finfo(np.float32).max:
            raise UserError(f"dataset: {np.abs(part).max():g} is too large a number: float32 ends at 3.4e38")
        out[some] = part
    return out


def _name(at: list[int], shape: tuple[int, ...], names: list[str], what: str) -> tuple[str, tuple[int, ...]]:
    """Return the name of the number at a place, and the place as an index."""
    place = [i for i, size in zip(at, shape, strict=True) if size > 1]
    return names[at[0]] if names else f"{what} {place}" if place else f"every {what}", tuple(at)


def _some(rows: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), AT_ONCE):
        yield rows[first : first + AT_ONCE]
