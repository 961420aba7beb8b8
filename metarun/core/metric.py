"""Metrics: how a task is evaluated, by a number with a name, a unit and a direction."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

HUGE = 1e6  # from here on a value, such as the error where gradient descent runs away, is shown by its power of ten


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Name, direction and display of a metric.

    Attributes:
        name: key in files.
        words: label on the axis of a plot.
        unit: text after a number, with a space in front of it; may be empty.
        larger_is_better: direction of the metric.
        scale: factor for display, for example 100 for a share in percent.
        digits: digits after the point, for display.
        bounds: smallest and largest possible value; infinite where there is none.
    """

    name: str
    words: str
    unit: str
    larger_is_better: bool
    scale: float
    digits: int
    bounds: tuple[float, float]

    @property
    def before(self) -> str:
        """The name, in the journal, of the metric before adapting."""
        return f"{self.name}_before"

    @property
    def worst(self) -> float:
        """The value for a task that diverged: the bound on the bad side."""
        return self.bounds[0] if self.larger_is_better else self.bounds[1]

    @property
    def worst_in_words(self) -> str:
        """The value for a task that diverged, in words: ``accuracy 0`` or ``an infinite error``."""
        if math.isfinite(self.worst):
            return f"{self.words} {self.scale * self.worst:g}"
        return f"an infinitely low {self.words}" if self.larger_is_better else "an infinite error"

    def goodness(self, value: float) -> float:
        """Sort key: larger is better; values that are not finite sort last."""
        if not math.isfinite(value):
            return -math.inf
        return value if self.larger_is_better else -value

    def number(self, value: float) -> str:
        """Format a value: ``98.70 %`` or ``0.3812``."""
        return f"{self._shown(value)}{self.unit}"

    def amount(self, mean: float, half: float | None = None) -> str:
        """Format a mean and a half-width: ``98.70 ± 0.40 %`` or ``0.3812 ± 0.0300``; no ± if ``half`` is unknown."""
        if not math.isfinite(mean):
            return "not finite"
        if half is None or math.isnan(half):
            return self.number(mean)
        return f"{self._shown(mean)} ± {self.number(half)}"

    def difference(self, value: float) -> str:
        """Format the difference of two values: ``+0.40`` or ``-0.012``, at most three digits and no unit."""
        return self._shown(value, "+", min(self.digits, 3))

    def _shown(self, value: float, sign: str = "", digits: int | None = None) -> str:
        """Format a value of usual size with a fixed number of digits, a huge one by its power of ten."""
        scaled = self.scale * value
        form = f".{self.digits if digits is None else digits}f" if abs(scaled) < HUGE else ".3g"
        return f"{scaled:{sign}{form}}"

    def facts(self) -> dict[str, Any]:
        """Return all fields except the name, for JSON, where an infinite bound becomes null."""
        facts = asdict(self)
        del facts["name"]
        return facts

    @staticmethod
    def of(name: str, facts: dict[str, Any] | None) -> Metric:
        """Make a metric from its name and ``facts``.

        Args:
            name: key in files.
            facts: as read from JSON; None: an older file, whose metric is one of the two below.

        Raises:
            KeyError, TypeError or ValueError: the facts do not describe a metric.
        """
        if facts is None:
            return {metric.name: metric for metric in (ACCURACY, SQUARED_ERROR)}[name]
        low, high = facts["bounds"]
        return Metric(
            name=name,
            words=str(facts["words"]),
            unit=str(facts["unit"]),
            larger_is_better=bool(facts["larger_is_better"]),
            scale=float(facts["scale"]),
            digits=int(facts["digits"]),
            bounds=(-math.inf if low is None else float(low), math.inf if high is None else float(high)),
        )


ACCURACY = Metric(
    name="accuracy", words="accuracy", unit=" %", larger_is_better=True, scale=100.0, digits=2, bounds=(0.0, 1.0)
)
SQUARED_ERROR = Metric(
    name="mse", words="mean squared error", unit="", larger_is_better=False, scale=1.0, digits=4, bounds=(0.0, math.inf)
)
NORMALISED_ERROR = replace(SQUARED_ERROR, name="normalised_mse", words="normalised squared error")
RETURN = Metric(
    name="return",
    words="return",
    unit="",
    larger_is_better=True,
    scale=1.0,
    digits=2,
    bounds=(-math.inf, math.inf),
)
