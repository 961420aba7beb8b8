"""Sinusoid regression: Finn, Abbeel and Levine 2017, section 5.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.episode import Episode, TaskFigure, View
from metarun.core.metric import SQUARED_ERROR, Metric
from metarun.core.objective import Supervised, regression
from metarun.core.tree import Params
from metarun.datasets.base import Dataset, Split, Tasks, task_keys
from metarun.errors import require


@dataclass(kw_only=True, slots=True)
class Sinusoid(Dataset):
    """y = a sin(x - p), x uniform in -x_max..x_max; a task is an amplitude a and a phase p, uniform in their ranges.

    ``shot`` is K points; ``way`` does not apply. The metric is the mean squared error. Every split has its own tasks
    from the same family, since there are no classes to split.

    Attributes:
        amplitude: [low, high].
        phase: [low, high], radians.
        x_max: bound of x.
    """

    has_way: ClassVar[bool] = False
    metric: ClassVar[Metric] = SQUARED_ERROR
    amplitude: list[float]
    phase: list[float]
    x_max: float

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase"):
            value = getattr(self, name)
            require(len(value) == 2 and value[0] <= value[1], name, value, "[low, high] with low <= high")
        require(self.x_max > 0, "x_max", self.x_max, "> 0")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1,)

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        return Waves(self, device)


class Waves(Tasks):
    """Tasks of a ``Sinusoid`` family on a device."""

    figure = TaskFigure.curve

    def __init__(self, family: Sinusoid, device: torch.device):
        self.family, self.device = family, device
        self.input_shape = (1,)
        low, high = family.amplitude
        self.stamp = {
            "split": "same family, other tasks",
            "family": f"a sin(x - p), a {low:g}..{high:g}, p {family.phase[0]:g}..{family.phase[1]:.4g}",
        }

    def has(self, split: Split) -> bool:
        return True

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        """Every such task exists."""

    def outputs(self, way: int) -> int:
        return 1

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        return regression(forward)

    def waves(self, split: Split, seed: int, indices: range) -> tuple[Tensor, Tensor]:
        """Draw amplitude and phase of each task, both [T, 1, 1]."""
        key = task_keys(seed, split, indices, self.device)
        unit = rng.uniform(rng.fold(key, 0), 2)[:, :, None, None]  # [T, 2, 1, 1]
        ranges = (self.family.amplitude, self.family.phase)
        amplitude, phase = (low + (high - low) * unit[:, i] for i, (low, high) in enumerate(ranges))
        return amplitude, phase

    def seen(self, view: View) -> Tasks:
        return Revealed(self.family, self.device) if view is View.revealed else self

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        key = task_keys(seed, split, indices, self.device)
        amplitude, phase = self.waves(split, seed, indices)
        x = self.family.x_max * (2 * rng.uniform(rng.fold(key, 1), shot + query)[..., None] - 1)
        y = amplitude * torch.sin(x - phase)
        return Episode(x[:, :shot], y[:, :shot], x[:, shot:], y[:, shot:], rng.fold(key, 3))


class Revealed(Waves):
    """The same tasks with inputs (x, a, p): the point, and the amplitude and phase of its task."""

    def __init__(self, family: Sinusoid, device: torch.device):
        Waves.__init__(self, family, device)
        self.input_shape = (3,)

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        plain = Waves.sample(self, split, seed, indices, way, shot, query)
        task = torch.cat(self.waves(split, seed, indices), -1)  # [T, 1, 2]

        def told(x: Tensor) -> Tensor:
            return torch.cat([x, task.expand(-1, x.shape[1], -1)], -1)

        return plain._replace(support_x=told(plain.support_x), query_x=told(plain.query_x))
