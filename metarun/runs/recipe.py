"""Recipes: a published protocol as configuration (``conf/recipe``), and the results published with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from metarun.core.batch_norm import Norm
from metarun.errors import require


@dataclass(kw_only=True, slots=True)
class Reference:
    """One published result, in the unit of the metric (accuracy as 0..1).

    Attributes:
        value: the published mean.
        interval: the published ±; null: none is published.
        interval_of: what the ± means.
        source: where the result is from.
        norm: batch norm statistics of the published evaluation; null: the network has no batch norm.
        steps: inner steps at test.
        tasks: number of test tasks; null: not known.
        confirmed: whether it was read in the original or in its code; if not, it is quoted from another text.
        ensemble: sets of parameters of one training whose outputs were averaged.
        band: [low, high]; a mean within it also counts as reproduced.
        band_reason: why this band.
    """

    value: float
    interval: float | None
    interval_of: str
    source: str
    norm: Norm | None
    steps: int
    tasks: int | None
    confirmed: bool
    ensemble: int = 1
    band: list[float] | None = None
    band_reason: str = ""

    def __post_init__(self) -> None:
        require(self.interval is None or self.interval > 0, "interval", self.interval, "> 0, or null")
        if self.band is not None:
            ordered = len(self.band) == 2 and self.band[0] <= self.band[1]
            require(ordered, "band", self.band, "[low, high] with low <= high")
            require(bool(self.band_reason), "band_reason", self.band_reason, "stated where a band is")


@dataclass(kw_only=True, slots=True)
class Recipe:
    """A published protocol.

    Attributes:
        name: data set and cell, for example ``omniglot/maml_5w1s``.
        budget: share of the published training length, > 0 and <= 1.
        reference: the published results.
    """

    name: str
    budget: float = 1.0
    reference: list[Reference] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(0 < self.budget <= 1, "budget", self.budget, "> 0 and <= 1")
