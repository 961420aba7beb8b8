"""Recipes: a published protocol as configuration (``conf/recipe``), and the results published with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from metarun.core.batch_norm import Norm
from metarun.errors import require


@dataclass(kw_only=True, slots=True)
class Reference:
    """One published result, in the unit of the metric (accuracy as 0..1)."""

    value: float
    interval: float | None  # the published ±; null: none is published
    interval_of: str  # what the ± means
    source: str
    norm: Norm | None  # of the published evaluation; null where the network has no batch norm
    steps: int  # inner steps at test
    tasks: int | None  # number of test tasks; null: not known
    confirmed: bool  # read in the original or in its code; false: quoted in another text
    band: list[float] | None = None  # [low, high]: a mean within it also counts as reproduced
    band_reason: str = ""  # why this band

    def __post_init__(self) -> None:
        require(self.interval is None or self.interval > 0, "interval", self.interval, "> 0, or null")
        if self.band is not None:
            ordered = len(self.band) == 2 and self.band[0] <= self.band[1]
            require(ordered, "band", self.band, "[low, high] with low <= high")
            require(bool(self.band_reason), "band_reason", self.band_reason, "stated where a band is")


@dataclass(kw_only=True, slots=True)
class Recipe:
    """A published protocol: its name, the training length, and the published results."""

    name: str  # dataset/method_cell, as on the command line
    budget: float = 1.0  # share of the published training length
    reference: list[Reference] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(0 < self.budget <= 1, "budget", self.budget, "> 0 and <= 1")
