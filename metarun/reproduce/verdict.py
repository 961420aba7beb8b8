"""Verdicts: the comparison of a result with a published one."""

from __future__ import annotations

import enum
import math

from metarun.runs.recipe import Reference

TELLING = 0.25  # largest half-width of our interval, as a share of the published value, that proves something
RULES = """\
Verdicts, the first that applies:

- not run: there is no result.
- no number: the paper has no number for it, for example only a curve.
- partial budget: the training was shorter than the published one, whatever its result.
- reproduced: our 95 % interval and the published one overlap, and the half-width of ours (after ±) is at most a quarter
  of the published value, because a wider interval proves nothing; or our mean is within the band that the recipe states
  and justifies.
- above, below: otherwise, better or worse than published (for an error, above means smaller). A result that is not
  finite, because tasks diverged, is below.
"""


class Verdict(enum.Enum):
    """Comparison of a result with a published one, by ``RULES``."""

    not_run = "not run"
    no_number = "no number"
    partial = "partial budget"
    reproduced = "reproduced"
    above = "above"
    below = "below"

    @staticmethod
    def of(reference: Reference, mean: float, half: float, budget: float, larger_is_better: bool) -> Verdict:
        """Compare a measured result with a published one.

        Args:
            reference: the published result.
            mean: our mean.
            half: half-width of our 95 % interval.
            budget: share of the published training length, 0..1.
            larger_is_better: direction of the metric.
        """
        if budget < 1:
            return Verdict.partial
        overlap = abs(mean - reference.value) <= half + (reference.interval or 0.0)
        telling = half <= TELLING * abs(reference.value)
        low, high = reference.band or (math.inf, -math.inf)
        if (overlap and telling) or low <= mean <= high:
            return Verdict.reproduced
        better = mean > reference.value if larger_is_better else mean < reference.value
        return Verdict.above if better else Verdict.below  # nan is not better
