"""Means over tasks with a confidence interval, and means over seeds with their spread and an interval of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarun.core.metric import Metric


def mean_and_interval(values: Tensor) -> tuple[float, float]:
    """Compute the mean over tasks and the half-width of its 95 % interval, 1.96 s / sqrt(T).

    Args:
        values: [T], one value for each task.

    Returns:
        (mean, half-width); the half-width is nan for a single task, whose spread is unknown.
    """
    values = values.to(torch.float64)
    half = 1.96 * values.std(correction=1) / len(values) ** 0.5 if len(values) > 1 else torch.tensor(float("nan"))
    return values.mean().item(), half.item()


def wilson(right: int, of: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a share, which is sound for few examples and for shares near 0 or 1.

    Args:
        right: number of right answers.
        of: number of answers, at least 1.

    Returns:
        (low, high), both 0..1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z, share = 1.96, right / of
    centre, half = share + z**2 / (2 * of), z * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    low, high = ((centre + side * half) / (1 + z**2 / of) for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


@dataclass(frozen=True)
class Estimate:
    """Estimate of a metric's mean over tasks.

    Attributes:
        mean: mean over tasks; a task that diverged counts with the metric's worst value.
        ci95: half-width of the 95 % interval over tasks; nan if it is unknown.
        tasks: number of tasks; None if it is unknown.
        diverged: number of tasks that diverged.
    """

    mean: float
    ci95: float
    tasks: int | None
    diverged: int

    @property
    def known(self) -> bool:
        """Whether the mean is finite and not all tasks diverged."""
        return math.isfinite(self.mean) and (self.tasks is None or self.diverged < self.tasks)

    def text(self, metric: Metric) -> str:
        """Format as ``98.70 ± 0.40 %``, with the number of tasks that diverged, if any."""
        of = f" of {self.tasks}" if self.tasks else ""
        some = f" ({self.diverged}{of} tasks diverged)" if self.diverged else ""
        return metric.amount(self.mean, self.ci95) + some

    @staticmethod
    def of(values: Tensor, diverged: Tensor, worst: float) -> Estimate:
        """Estimate the mean of a metric.

        Args:
            values: [T], the metric of each task.
            diverged: [T] bool, tasks whose value is replaced by ``worst``.
            worst: the metric's worst value.
        """
        mean, half = mean_and_interval(torch.where(diverged, worst, values.to(torch.float64)))
        return Estimate(mean, half, len(values), int(diverged.sum()))


def over_seeds(runs: list[Estimate]) -> tuple[Estimate, float]:
    """Combine the runs of several seeds.

    Args:
        runs: the estimate of each seed's run.

    Returns:
        (estimate, standard deviation of the means). The estimate has the mean of the means, the root mean square of the
        half-widths, and all tasks of all runs. The deviation is nan for fewer than two runs.
    """
    n = len(runs)
    if n == 0:
        return Estimate(math.nan, math.nan, 0, 0), math.nan
    mean = sum(run.mean for run in runs) / n
    spread = math.sqrt(sum((run.mean - mean) ** 2 for run in runs) / (n - 1)) if n > 1 else math.nan
    half = math.sqrt(sum(run.ci95**2 for run in runs) / n)
    return Estimate(mean, half, sum(run.tasks or 0 for run in runs), sum(run.diverged for run in runs)), spread


def student(freedom: int) -> float:
    """Compute the 97.5 % quantile of Student's t distribution: half of a 95 % interval, in standard errors.

    Args:
        freedom: degrees of freedom, at least 1.

    Source: Abramowitz and Stegun 1964, "Handbook of mathematical functions", 26.7.3 and 26.7.4 (P(-t < T < t)).
    """

    def within(t: float) -> float:
        angle, odd = math.atan(t / math.sqrt(freedom)), freedom % 2
        term = total = math.cos(angle) if odd else 1.0
        for k in range(2 + odd, freedom, 2):
            term *= math.cos(angle) ** 2 * (k - 1) / k
            total += term
        total *= math.sin(angle)
        return 2 / math.pi * (angle + (total if freedom > 1 else 0.0)) if odd else total

    low, high = 0.0, 16.0  # t is 12.7 for one degree of freedom, and less for more
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return high


FEWEST = 3  # seeds from which their spread is part of an interval: of two, t is 12.7 and says next to nothing


def with_seeds(runs: list[Estimate]) -> tuple[Estimate, bool]:
    """Combine the runs of several seeds into an estimate of what one more training would get on other tasks.

    The mean over S seeds and T tasks varies for two reasons: other seeds, and other tasks. All runs are tested on the
    same tasks (``eval.seed``), so that chance in their choice moves every run alike: more seeds do not lessen it, and
    the spread between seeds does not show it. The interval therefore has two parts, half-widths of independent errors,
    whose squares are added (as in MOVER, Zou and Donner 2008):

    - seeds: Student's t over the runs' means, t(S - 1) s / sqrt(S), where s is their standard deviation;
    - tasks: the interval of one run, not divided by sqrt(S): root mean square of the runs' half-widths.

    What a task does to one run and not to the others is in both parts, so the interval is rather too wide than too
    narrow. Of fewer than three runs, the interval is that over tasks.

    Args:
        runs: the estimate of each seed's run, all on the same tasks.

    Returns:
        (estimate, whether its interval includes the spread between seeds).
    """
    estimate, spread = over_seeds(runs)
    if len(runs) < FEWEST:
        return estimate, False
    half = math.hypot(student(len(runs) - 1) * spread / math.sqrt(len(runs)), estimate.ci95)
    return replace(estimate, ci95=half), True
