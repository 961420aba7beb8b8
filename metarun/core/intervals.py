"""A mean over tasks with its interval, and over seeds with its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def mean_and_interval(values: Tensor) -> tuple[float, float]:
    """Mean over tasks and the half-width of its 95 % interval, 1.96 s / sqrt(n); values [T], n > 1.

    With one task the spread is unknown and the half-width is nan.
    """
    values = values.to(torch.float64)
    half = 1.96 * values.std(correction=1) / len(values) ** 0.5 if len(values) > 1 else torch.tensor(float("nan"))
    return values.mean().item(), half.item()


@dataclass(frozen=True)
class Figure:
    """What is said of a metric over tasks."""

    mean: float  # tasks that diverged count with the worst value there is
    ci95: float  # half-width of the 95 % interval over tasks; nan where it is unknown
    tasks: int
    diverged: int  # how many of the tasks

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return math.isfinite(self.mean) and self.diverged < self.tasks

    @staticmethod
    def of(values: Tensor, diverged: Tensor, worst: float) -> Figure:
        """For the values of tasks, of which some diverged; both [T]."""
        mean, half = mean_and_interval(torch.where(diverged, worst, values.to(torch.float64)))
        return Figure(mean, half, len(values), int(diverged.sum()))


def over_seeds(scores: list[tuple[float, float]]) -> tuple[float, float, float]:
    """(mean, 95 % interval over tasks) of each seed's run -> mean over seeds, root mean square of the intervals, and
    the standard deviation of the means; nan where there are too few."""
    n = len(scores)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = sum(m for m, _ in scores) / n
    spread = math.sqrt(sum((m - mean) ** 2 for m, _ in scores) / (n - 1)) if n > 1 else math.nan
    return mean, math.sqrt(sum(half**2 for _, half in scores) / n), spread
