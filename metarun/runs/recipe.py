"""Recipes: a published protocol as configuration (``conf/recipe``), the numbers published with it, and verdicts."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from metarun.core.batch_norm import Norm
from metarun.errors import require

TELLING = 0.25  # share of the published value that our interval's half-width may be


@dataclass(kw_only=True, slots=True)
class Reference:
    """One published number, in the unit of the metric (accuracy as 0..1)."""

    value: float
    interval: float | None  # the published ±; null: none was published
    interval_of: str  # what that ± means
    source: str
    norm: Norm | None  # of the published evaluation; null where the network has no batch norm
    steps: int  # inner steps at test
    tasks: int | None  # test tasks behind it; null: not known
    confirmed: bool  # read in the original, or in its code; false: quoted by others
    band: list[float] | None = None  # [low, high] that also counts as reproduced
    band_reason: str = ""  # why

    def __post_init__(self) -> None:
        require(self.interval is None or self.interval > 0, "interval", self.interval, "> 0, or null")
        if self.band is not None:
            ordered = len(self.band) == 2 and self.band[0] <= self.band[1]
            require(ordered, "band", self.band, "[low, high] with low <= high")
            require(bool(self.band_reason), "band_reason", self.band_reason, "stated where a band is")


@dataclass(kw_only=True, slots=True)
class Recipe:
    name: str  # dataset/method_cell, as on the command line
    budget: float = 1.0  # share of the published training length
    reference: list[Reference] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(0 < self.budget <= 1, "budget", self.budget, "> 0 and <= 1")


class Verdict(enum.Enum):
    """What a result says about a published number; the rules, in order:

    not run: there is no result. no number: none was published. partial budget: it was trained for less than the
    published length. reproduced: the two intervals overlap, and ours is no wider than a quarter of the published value
    (one that overlaps with everything proves nothing); or the mean lies in the band that the recipe states and
    justifies. above and below: it is better or worse than that (for an error, above is the smaller one).
    """

    not_run = "not run"
    no_number = "no number"
    partial = "partial budget"
    reproduced = "reproduced"
    above = "above"
    below = "below"

    @staticmethod
    def of(reference: Reference, mean: float, half: float, budget: float, larger_is_better: bool) -> Verdict:
        """For a measured mean with the half-width of its 95 % interval."""
        if budget < 1:
            return Verdict.partial
        overlap = abs(mean - reference.value) <= half + (reference.interval or 0.0)
        telling = half <= TELLING * abs(reference.value)
        low, high = reference.band or (math.inf, -math.inf)
        if (overlap and telling) or low <= mean <= high:
            return Verdict.reproduced
        return Verdict.above if (mean > reference.value) == larger_is_better else Verdict.below
