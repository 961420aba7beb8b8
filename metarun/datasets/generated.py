"""Random numbers with the shapes of a data set's tasks, for benchmarks: no download, and nothing to learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarun.core.episode import Episode
from metarun.core.objective import Supervised, binary, classification, regression
from metarun.core.tree import Params
from metarun.datasets.base import Dataset, Split, Tasks


class Generated(Tasks):
    """Tasks with the shapes of ``dataset``: noise with class labels if it has a way, else noise with noise targets.

    Args:
        dataset: the data set.
        device: device of the tasks.
        input_shape: shape of an example; None: as the data set's settings say.
    """

    def __init__(self, dataset: Dataset, device: torch.device, input_shape: tuple[int, ...] | None = None):
        self.has_way, self.binary, self.device = dataset.has_way, dataset.binary, device
        self.fixed_labels = dataset.fixed_labels
        self.input_shape = dataset.input_shape if input_shape is None else input_shape
        self.stamp = {"split": "generated"}

    def has(self, split: Split) -> bool:
        return True

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        pass

    def outputs(self, way: int) -> int:
        return way if self.has_way and not self.binary else 1

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        if self.binary:
            return binary(forward)
        return classification(forward, way, self.fixed_labels) if self.has_way else regression(forward)

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        generator = torch.Generator(self.device).manual_seed(seed + indices.start)
        classes = way if self.has_way else 1

        def examples(per_class: int) -> tuple[Tensor, Tensor]:
            count = classes * per_class
            x = torch.randn(len(indices), count, *self.input_shape, generator=generator, device=self.device)
            if not self.has_way:
                return x, torch.randn(len(indices), count, self.outputs(way), generator=generator, device=self.device)
            labels = torch.arange(classes, device=self.device).repeat_interleave(per_class)
            return x, labels.expand(len(indices), -1)

        key = torch.arange(indices.start, indices.stop, device=self.device)
        return Episode(*examples(shot), *examples(query), key)
