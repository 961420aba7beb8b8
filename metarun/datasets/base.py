"""A data set is a recipe: fields say which data, ``load`` finds it. What comes out is a family of tasks."""

from __future__ import annotations

import abc
import enum
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.episode import Episode, TaskFigure, View
from metarun.core.metric import ACCURACY, Metric
from metarun.core.problem import Problem
from metarun.core.tree import Params
from metarun.errors import UserError
from metarun.files import cache_dir, user_path

Found = TypeVar("Found")


class Split(enum.Enum):
    """Disjoint sources of tasks. The value enters each task's key, so it never changes."""

    train = 0
    val = 1
    test = 2


def cut(order: Sequence[int], shares: Mapping[Split, float]) -> dict[Split, list[int]]:
    """Consecutive parts of ``order``, rounded to whole numbers; the shares add up to 1."""
    splits, first = {}, 0.0
    for split, share in shares.items():
        splits[split] = list(order[round(first * len(order)) : round((first + share) * len(order))])
        first += share
    return splits


class Tasks(abc.ABC):
    """A family of few-shot tasks on one device. Task i of a split is a function of (seed, split, i) alone."""

    input_shape: tuple[int, ...]  # of one example
    stamp: dict[str, str]  # facts for the protocol stamp of every number measured on these tasks
    figure: TaskFigure = TaskFigure.none  # what some test tasks are drawn as

    @abc.abstractmethod
    def has(self, split: Split) -> bool:
        """Whether the split holds any data at all."""

    def class_names(self, split: Split) -> list[str] | None:
        """The classes of a split, in order; None where splits do not differ by classes. Turns of a class are it."""
        return None

    def drawn(self, split: Split, seed: int, indices: range, way: int) -> list[list[str]] | None:
        """The names of labels 0, 1, ... in each of the tasks with these indices; None where classes have no names."""
        return None

    @abc.abstractmethod
    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        """Raise ``UserError``, with the numbers, where the split cannot supply such tasks."""

    @abc.abstractmethod
    def outputs(self, way: int) -> int:
        """Width of a model's last layer."""

    @abc.abstractmethod
    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Problem:
        """The losses and the metric of these tasks, for a model's ``forward``: (params, x) -> outputs."""

    def seen(self, view: View) -> Tasks:
        """The same tasks, as a method is shown the meta-training split; the other splits stay tasks to be adapted to.

        Raises ``UserError`` where there is no such view.
        """
        if view is View.revealed:
            raise UserError("dataset: algo=oracle needs tasks that are known by a few numbers, as dataset=sinusoid has")
        return self

    @abc.abstractmethod
    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        """The tasks with these indices, T = len(indices)."""


@dataclass(kw_only=True, slots=True)
class Dataset(abc.ABC):
    """A data set's settings."""

    has_way: ClassVar[bool] = True  # whether "way" means anything for its tasks
    metric: ClassVar[Metric] = ACCURACY  # of its tasks' problems, known without the data
    binary: ClassVar[bool] = False  # whether way is 2 and one output tells the classes apart
    preset: dict[str, Any] = field(default_factory=dict)  # values that suit it: ``${preset:KEY,ELSE}`` in conf/algo

    @property
    @abc.abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of one example; known without the data."""

    @property
    def ink(self) -> bool:
        """Whether grey images say how much ink there is, so that 1 is to be seen as black; else 1 is white."""
        return False

    @abc.abstractmethod
    def load(self, data_root: Path, device: torch.device) -> Tasks:
        """Find or make the data. Raises ``UserError`` where that fails, saying what was tried and what would do."""


def default_data_root() -> Path:
    """Where data sets are looked for and downloaded to: ``$METARUN_DATA``, else the cache folder."""
    return user_path(os.environ.get("METARUN_DATA") or cache_dir() / "data")


def first_that_works(
    dataset: str, sources: Mapping[str, Callable[[Path], Found]], data_root: Path, cache: Path, by_hand: str
) -> Found:
    """What the first of the named sources finds in (or brings to) ``data_root``, where ``cache`` holds nothing yet.

    Raises ``UserError`` that lists what was tried and says what to do ``by_hand``.
    """
    tried = [f"prepared cache {cache}: not there"]
    for name, source in sources.items():
        try:
            return source(data_root)
        except Exception as error:  # whatever is wrong with one source, the next may do
            tried.append(" ".join(f"{name}: {error or type(error).__name__}".split()))
    raise UserError(
        f"dataset={dataset}: no source works. Tried: {'; '.join(tried)}. By hand: {by_hand}. "
        "dataset=glyphs needs nothing."
    )


def task_keys(seed: int, split: Split, indices: range, device: torch.device) -> Tensor:
    """[T] int64, one random stream a task."""
    of_split = rng.fold(rng.root(seed, device), split.value)
    return rng.fold(of_split, torch.arange(indices.start, indices.stop, indices.step, device=device))
