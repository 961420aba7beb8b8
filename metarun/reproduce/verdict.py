"""What a result says about a published number."""

from __future__ import annotations

import enum
import math

from metarun.runs.recipe import Reference

TELLING = 0.25  # share of the published value that our interval's half-width may be


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
