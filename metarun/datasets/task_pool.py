"""Tasks that a user's data name: the support and query examples of a task are drawn from its own rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.episode import Episode, TaskFigure
from metarun.core.metric import NORMALISED_ERROR, Metric
from metarun.core.objective import Supervised, classification, regression
from metarun.core.tree import Params
from metarun.datasets.base import Split, Tasks, task_keys
from metarun.datasets.sampler import figure_of
from metarun.datasets.table_file import listed
from metarun.errors import TooFewExamples, UserError, require

MANY = 20  # classes that a message names, and more than a column of classes usually has
Groups = dict[str, list[list[int]]]  # task -> rows of each class; one list where numbers are predicted


class Held(NamedTuple):
    """The tasks of one split.

    Attributes:
        names: names of the tasks.
        rows: int64, rows of all groups, one after another; a task has one group for each class, or a single one.
        first: int64 [groups], place of each group's first row in ``rows``.
        counts: int64 [groups], rows of each group.
        most: rows of the largest group.
    """

    names: list[str]
    rows: Tensor
    first: Tensor
    counts: Tensor
    most: int


class TaskPool(Tasks):
    """Few-shot tasks on rows that belong to named tasks; a split has tasks of its own.

    All tasks have the same classes, whose labels never change, or the same numbers to predict.

    Args:
        x: float32 [rows, ...].
        y: int64 [rows] labels, or float32 [rows, D] numbers to predict.
        held: the tasks of each split.
        device: device of rows and tasks.
        stamp: facts for the protocol.
        learned: see ``Tasks``.
        names: names of the classes, or of the numbers to predict.
        metric: the metric.
        unit: see ``Supervised``.
        few_tasks: text added to the message about a split without tasks.
        few_rows: the same for too few rows; ``{}`` in it becomes the number of rows needed.
    """

    apart = "tasks"

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        held: dict[Split, Groups],
        device: torch.device,
        stamp: dict[str, str],
        learned: Mapping[str, Any],
        *,
        names: Sequence[str],
        metric: Metric,
        unit: tuple[str, float] | None,
        few_tasks: str,
        few_rows: str,
    ):
        self.x, self.y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        self.device, self.stamp, self.learned, self.names = device, stamp, learned, list(names)
        self.metric, self.unit, self.few_tasks, self.few_rows = metric, unit, few_tasks, few_rows
        self.input_shape = tuple(x.shape[1:])
        self.figure = TaskFigure.fit if self.predicts_numbers else figure_of(self.input_shape)
        self.held = {split: self._held(of_split) for split, of_split in held.items()}

    def _held(self, of_split: Groups) -> Held:
        groups = [np.array(rows, np.int64) for of_task in of_split.values() for rows in of_task]
        sizes = np.array([len(rows) for rows in groups], np.int64)
        return Held(
            names=list(of_split),
            rows=torch.from_numpy(np.concatenate([np.empty(0, np.int64), *groups])).to(self.device),
            first=torch.from_numpy(np.cumsum(sizes) - sizes).to(self.device),
            counts=torch.from_numpy(sizes).to(self.device),
            most=max(sizes.tolist(), default=0),
        )

    @property
    def predicts_numbers(self) -> bool:
        """Whether tasks are to predict numbers instead of classes."""
        return self.y.is_floating_point()

    @property
    def groups(self) -> int:
        """How many groups of rows a task has: one for each class, or a single one."""
        return 1 if self.predicts_numbers else len(self.names)

    def has(self, split: Split) -> bool:
        return bool(self.held[split].names)

    def class_names(self, split: Split) -> list[str]:
        return self.held[split].names

    def sizes(self, split: Split) -> dict[str, int]:
        held = self.held[split]
        of_tasks = held.counts.view(-1, self.groups).sum(1).tolist()
        return dict(zip(held.names, of_tasks, strict=True))

    def drawn(self, split: Split, seed: int, indices: range, way: int) -> list[list[str]]:
        if not self.predicts_numbers:
            return [self.names] * len(indices)
        numbers = [f"{name}{', normalised' if self.metric is NORMALISED_ERROR else ''}" for name in self.names]
        return [[self.held[split].names[task], *numbers] for task in self._tasks(split, seed, indices).tolist()]

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        held = self.held[split]
        if not self.predicts_numbers:
            fixed = f"{self.groups}, all classes, since a class has the same label in every task"
            numbers = "" if self.groups <= MANY else "; for numbers to predict: dataset.predict=numbers"
            require(way == self.groups, "way", way, f"{fixed}: {listed(self.names, MANY)}{numbers}")
        if not held.names:
            raise UserError(f"dataset: the {split.name} split has no tasks{self.few_tasks}")
        least = int(held.counts.argmin())
        name, has = held.names[least // self.groups], int(held.counts[least])
        if shot + query > has:
            of_class = "" if self.predicts_numbers else f" of class {self.names[least % self.groups]}"
            per_class = "" if self.predicts_numbers else " per class"
            raise TooFewExamples(
                f"{shot} support + {query} query rows{per_class} ({split.name}) are {shot + query}, "
                f"but task {name} has {f'only {has}' if has else 'none'}{of_class}",
                self.few_rows.format(shot + query),
            )

    def outputs(self, way: int) -> int:
        return len(self.names)

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        if self.predicts_numbers:
            return regression(forward, len(self.names), self.metric, self.unit)
        return classification(forward, way, fixed_labels=True)

    def yardsticks(self, tasks: Episode, beside: Mapping[str, float]) -> dict[str, Tensor]:
        """Return the error of the simplest prediction: the mean of the task's support targets."""
        guess = tasks.support_y.mean(1, keepdim=True)
        return {"mean of the support targets": (tasks.query_y - guess).square().mean((1, 2))}

    def _tasks(self, split: Split, seed: int, indices: range) -> Tensor:
        """Number of the named task that each index stands for, [T].

        All tasks of the split come once, in random order, before one comes again: no task counts more than others.
        """
        count = len(self.held[split].names)
        index = torch.arange(indices.start, indices.stop, indices.step, device=self.device)
        of_rounds = rng.fold(rng.root(seed, self.device), len(Split) + split.value)  # task_keys uses the streams before
        order = rng.permutation(rng.fold(of_rounds, index // count), count)  # [T, count]
        return order.gather(1, (index % count)[:, None])[:, 0]

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        """Draw rows of each task, and of each class in it, without replacement and in random order."""
        held, key = self.held[split], task_keys(seed, split, indices, self.device)  # [T]
        number = torch.arange(self.groups, device=self.device)
        group = self._tasks(split, seed, indices)[:, None] * self.groups + number  # [T, groups]
        of_group = rng.fold(rng.fold(key, 1)[:, None], number)
        instance = rng.subset(of_group, held.counts[group], held.most, shot + query)  # [T, groups, K+Q]
        row = held.rows[held.first[group][..., None] + instance]
        x, y = self.x[row], self.y[row]  # [T, groups, K+Q, ...]
        return Episode(
            support_x=x[:, :, :shot].flatten(1, 2),
            support_y=y[:, :, :shot].flatten(1, 2),
            query_x=x[:, :, shot:].flatten(1, 2),
            query_y=y[:, :, shot:].flatten(1, 2),
            key=rng.fold(key, 3),
        )
