"""What a task is judged by: a number with a name, a unit and a direction."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is called, which way it is better, and how people read it.

    name: as a key of files. words: on the axis of a plot. unit: behind a number, with a space before it. scale: what a
    value is multiplied with to be read, as 100 for a share in percent. digits: behind the point, as it is read.
    bounds: of its values; infinite where there are none.
    """

    name: str
    words: str
    unit: str
    larger_is_better: bool
    scale: float
    digits: int
    bounds: tuple[float, float]

    @property
    def worst(self) -> float:
        """The value that stands for a task that diverged."""
        return self.bounds[0] if self.larger_is_better else self.bounds[1]

    def goodness(self, value: float) -> float:
        """Sort key: larger is better; what is not finite sorts last."""
        if not math.isfinite(value):
            return -math.inf
        return value if self.larger_is_better else -value

    def number(self, value: float) -> str:
        """``98.70 %`` or ``0.3812``."""
        return f"{self.scale * value:.{self.digits}f}{self.unit}"

    def amount(self, mean: float, half: float | None = None) -> str:
        """``98.70 ± 0.40 %`` or ``0.3812 ± 0.0300``; without ± where no interval is known."""
        if not math.isfinite(mean):
            return "not finite"
        if half is None or math.isnan(half):
            return self.number(mean)
        return f"{self.scale * mean:.{self.digits}f} ± {self.number(half)}"


ACCURACY = Metric(
    name="accuracy", words="accuracy", unit=" %", larger_is_better=True, scale=100.0, digits=2, bounds=(0.0, 1.0)
)
SQUARED_ERROR = Metric(
    name="mse", words="mean squared error", unit="", larger_is_better=False, scale=1.0, digits=4, bounds=(0.0, math.inf)
)
