"""Gaussians: classify points of two blobs in the plane; nothing to download, and the best accuracy is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.episode import Episode, TaskFigure
from metarun.core.objective import Supervised, binary
from metarun.core.tree import Params
from metarun.datasets.base import Dataset, Split, Tasks, task_keys
from metarun.errors import require


@dataclass(kw_only=True, slots=True)
class Gaussians(Dataset):
    """A task is two means, each from N(0, spread^2 I); a class is points from N(mean, deviation^2 I).

    The best decision, for known means, is the nearer mean. For means at distance d it is right for a share
    Phi(d / (2 deviation)) of points. d / deviation is Rayleigh distributed, so over all tasks the share is
    (1 + spread / sqrt(spread^2 + 2 deviation^2)) / 2, and no method can exceed it. Which of the two means is class 1 is
    random, so without adapting the share is one half. Every split has its own tasks from the same family.

    Attributes:
        spread: standard deviation of the means, in each coordinate.
        deviation: standard deviation of a class's points around its mean, in each coordinate.
    """

    binary: ClassVar[bool] = True
    spread: float
    deviation: float

    def __post_init__(self) -> None:
        for name in ("spread", "deviation"):
            require(getattr(self, name) > 0, name, getattr(self, name), "> 0")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (2,)

    def best_accuracy(self) -> float:
        """Return the accuracy over all tasks, 0..1, of a method that knows the means."""
        return 0.5 + 0.5 * self.spread / (self.spread**2 + 2 * self.deviation**2) ** 0.5

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        return Blobs(self, device)


class Blobs(Tasks):
    """Tasks of a ``Gaussians`` family on a device."""

    figure = TaskFigure.points

    def __init__(self, family: Gaussians, device: torch.device):
        self.family, self.device = family, device
        self.input_shape = family.input_shape
        self.stamp = {
            "split": "same family, other tasks",
            "family": f"means N(0, {family.spread:g}^2), points N(mean, {family.deviation:g}^2)",
            "best_possible": f"{100 * family.best_accuracy():.2f} %",
        }

    def has(self, split: Split) -> bool:
        return True

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        """Every such task exists."""

    def outputs(self, way: int) -> int:
        return 1

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        return binary(forward)

    def means(self, split: Split, seed: int, indices: range) -> Tensor:
        """Draw the means of classes 0 and 1 of each task, [T, 2, 2]; the last axis is the coordinates."""
        key = task_keys(seed, split, indices, self.device)
        return self.family.spread * rng.normal(rng.fold(key, 0), 4).unflatten(-1, (2, 2))

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        key = task_keys(seed, split, indices, self.device)  # [T]
        label = torch.arange(2, device=self.device)
        of_class = rng.fold(rng.fold(key, 1)[:, None], label)  # [T, 2]
        around = rng.normal(of_class, 2 * (shot + query)).unflatten(-1, (shot + query, 2))
        x = self.means(split, seed, indices)[:, :, None] + self.family.deviation * around  # [T, 2, K+Q, 2]
        return Episode(
            support_x=x[:, :, :shot].flatten(1, 2),
            support_y=label.repeat_interleave(shot).expand(len(indices), -1),
            query_x=x[:, :, shot:].flatten(1, 2),
            query_y=label.repeat_interleave(query).expand(len(indices), -1),
            key=rng.fold(key, 3),
        )
