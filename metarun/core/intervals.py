"""A mean over tasks with its interval, and over seeds with its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Estimate:
    """A metric over tasks: what is known of its mean."""

    mean: float  # tasks that diverged count with the worst value there is
    ci95: float  # half-width of the 95 % interval over tasks; nan where it is unknown
    tasks: int | None  # how many; None where that was not kept
    diverged: int  # how many of the tasks

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return math.isfinite(self.mean) and (self.tasks is None or self.diverged < self.tasks)

    def text(self, metric: Metric) -> str:
        """``98.70 ± 0.40 %``, and how many of the tasks diverged, if any."""
        of = f" of {self.tasks}" if self.tasks else ""
        some = f" ({self.diverged}{of} tasks diverged)" if self.diverged else ""
        return metric.amount(self.mean, self.ci95) + some

    @staticmethod
    def of(values: Tensor, diverged: Tensor, worst: float) -> Estimate:
        """For the values of tasks, of which some diverged; both [T]."""
        mean, half = mean_and_interval(torch.where(diverged, worst, values.to(torch.float64)))
        return Estimate(mean, half, len(values), int(diverged.sum()))


def over_seeds(runs: list[Estimate]) -> tuple[Estimate, float]:
    """The runs of several seeds as one, and the standard deviation of their means (nan for fewer than two).

    The one has the mean of the means, the root mean square of the intervals, and all tasks of all runs.
    """
    n = len(runs)
    if n == 0:
        return Estimate(math.nan, math.nan, 0, 0), math.nan
    mean = sum(run.mean for run in runs) / n
    spread = math.sqrt(sum((run.mean - mean) ** 2 for run in runs) / (n - 1)) if n > 1 else math.nan
    half = math.sqrt(sum(run.ci95**2 for run in runs) / n)
    return Estimate(mean, half, sum(run.tasks or 0 for run in runs), sum(run.diverged for run in runs)), spread
