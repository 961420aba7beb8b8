"""Base classes of data sets (settings from which ``load`` makes tasks) and of task families."""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.episode import TaskFigure, View
from metarun.core.metric import ACCURACY, Metric
from metarun.core.problem import Problem
from metarun.core.tree import Params
from metarun.datasets.about import About
from metarun.errors import UserError
from metarun.files import sources_are_checked

Found = TypeVar("Found")


class Split(enum.Enum):
    """Disjoint sources of tasks. The value is part of each task's key, so it must never change."""

    train = 0
    val = 1
    test = 2


def cut(order: Sequence[int], shares: Mapping[Split, float]) -> dict[Split, list[int]]:
    """Cut ``order`` into consecutive parts, one for each split.

    Args:
        order: numbers of classes or images.
        shares: share of each split; the sum is 1, and sizes are rounded to whole numbers.
    """
    splits, first = {}, 0.0
    for split, share in shares.items():
        splits[split] = list(order[round(first * len(order)) : round((first + share) * len(order))])
        first += share
    return splits


class Tasks(abc.ABC):
    """A family of few-shot tasks on one device. Task i of a split is a function of (seed, split, i) alone.

    Attributes:
        input_shape: shape of one example.
        stamp: facts for the protocol of every number measured on these tasks.
        figure: kind of figure for test tasks.
        apart: what the splits differ by, in the plural: classes, or the tasks that a user's data name.
        noun: what examples are called in messages.
        learned: what preparing inputs and labels learned from meta-training data, as plain data for ``config.json``.
    """

    input_shape: tuple[int, ...]
    stamp: dict[str, str]
    figure: TaskFigure = TaskFigure.none
    apart: str = "classes"
    noun: str = "rows"
    learned: Mapping[str, Any] = MappingProxyType({})

    @abc.abstractmethod
    def has(self, split: Split) -> bool:
        """Whether the split has any data."""

    def class_names(self, split: Split) -> list[str] | None:
        """List the classes of a split, or what else is ``apart``, in order, without turned copies; None: nothing is."""
        return None

    def sizes(self, split: Split) -> dict[str, int] | None:
        """Count the examples of each of ``class_names``; None: there are any number."""
        return None

    def drawn(self, split: Split, seed: int, indices: range, way: int) -> list[list[str]] | None:
        """List the class names of labels 0, 1, ... in each task with these indices; None if classes have no names.

        Where numbers are predicted, these are the name of the task and those of the numbers.
        """
        return None

    @abc.abstractmethod
    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        """Raise ``UserError``, with the numbers, if the split has too little data for such tasks."""

    def most(self, split: Split) -> int | None:
        """Return how many tasks the split has, where there is a fixed list; None: any number can be drawn."""
        return None

    def yardsticks(self, tasks: Any, beside: Mapping[str, float]) -> dict[str, Tensor]:
        """Return what known solutions get on drawn tasks, name -> metric [T], for lines beside a result.

        Args:
            tasks: T tasks.
            beside: means over all tasks of what the problem measured beside the metric, after the last inner step.
        """
        return {}

    def inputs(self, tasks: Any) -> Tensor:
        """Return inputs [T, B, *input_shape] of drawn tasks, on which a network's behaviour is examined."""
        return torch.cat([tasks.support_x, tasks.query_x], 1)

    @abc.abstractmethod
    def outputs(self, way: int) -> int:
        """Return the width of a model's last layer."""

    @abc.abstractmethod
    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Problem:
        """Make the problem, losses and metric of these tasks, for a model.

        Args:
            forward: (params, x [B, *input_shape]) -> outputs [B, outputs].
            way: classes in a task.
        """

    def seen(self, view: View) -> Tasks:
        """Return the same tasks with the meta-training split in the form ``view``; other splits keep few-shot tasks.

        Raises:
            UserError: these tasks do not have this view.
        """
        if view is View.revealed:
            raise UserError("dataset: algo=oracle needs tasks that are known by a few numbers, as dataset=sinusoid has")
        return self

    @abc.abstractmethod
    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Any:
        """Draw tasks.

        Args:
            split: source of the tasks.
            seed: seed of the family's random numbers.
            indices: numbers of the tasks, T in all.
            way: N.
            shot: K.
            query: Q.

        Returns:
            T tasks, an ``Episode`` where they are labelled examples; task i depends on (seed, split, i) alone.
        """


@dataclass(kw_only=True, slots=True)
class Dataset(abc.ABC):
    """Settings of a data set.

    Attributes:
        binary: whether way is 2 and the network has one logit.
        labelled: whether tasks are examples with class labels, or with one number to predict, of a shape that the
            settings state. Benchmarks put noise in the place of such tasks (generated.py) and use others as they are.
        about: what is known of a published data set, which has files; None: it is generated, or a user's own.
        preset: values of other keys that suit this data set; conf/algo reads them by ``${preset:KEY,ELSE}``.
    """

    binary: ClassVar[bool] = False
    labelled: ClassVar[bool] = True
    about: ClassVar[About | None] = None
    preset: dict[str, Any] = field(default_factory=dict)

    @property
    def has_way(self) -> bool:
        """Whether ``way`` applies to its tasks."""
        return True

    @property
    def metric(self) -> Metric:
        """Metric of its tasks, known before the data are loaded."""
        return ACCURACY

    @property
    @abc.abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, known before the data are loaded."""

    @property
    def inputs_of_an_example(self) -> int:
        """How many inputs of a network one example of a task has: 1, or the steps of a trajectory."""
        return 1

    @property
    def fixed_labels(self) -> bool:
        """Whether an output stands for the same class in every task, known before the data are loaded."""
        return self.binary or not self.has_way

    @property
    def ink(self) -> bool:
        """Whether grey values are amounts of ink, so that figures show 1 as black; else 1 is white."""
        return False

    def picture(self, path: Path) -> np.ndarray:
        """Read a user's image file as the files of this data set are read, uint8 [C, H, W].

        Raises:
            UserError: the file cannot be read; or the examples of this data set are no images.
        """
        raise UserError(f"dataset={type(self).__module__.rpartition('.')[2]}: its examples are no image files")

    @property
    def reading(self) -> str:
        """What ``picture`` does with a file, in words, for those who use the network elsewhere."""
        return ""

    @classmethod
    def has_pictures(cls) -> bool:
        """Whether examples are images of 8 bits a channel, which ``picture`` reads."""
        return cls.picture is not Dataset.picture

    def kind(self, way: int, shot: int) -> str:
        """Return what a task is, in words: ``5-way 1-shot``."""
        return f"{way}-way {shot}-shot" if self.has_way else f"{shot}-shot"

    def short_kind(self, way: int, shot: int) -> str:
        """Return the same for the name of a folder: ``5w1s``."""
        return f"{way}w{shot}s" if self.has_way else f"{shot}s"

    def present(self, data_root: Path) -> Path | None:
        """Return where the data are, without reading them; None: they are not here, or need no files."""
        return None if self.about is None else self.about.present(data_root)

    def download(self, data_root: Path) -> None:
        """Download the data to ``data_root``, by torchvision, which verifies them; it may fail in any way.

        Raises:
            UserError: they cannot be downloaded; the message says what to fetch and where to put it.
        """
        module = type(self).__module__.rpartition(".")[2]
        said = self.about.by_hand_in(data_root) if self.about else "there is nothing to download"
        raise UserError(f"dataset={module}: {said}")

    def problems(self, data_root: Path) -> Iterator[str]:
        """Yield what is wrong with the files, where loading would not say it, or only the first of it."""
        yield from ()

    @abc.abstractmethod
    def load(self, data_root: Path, device: torch.device) -> Tasks:
        """Find or make the data.

        Args:
            data_root: folder where data sets are looked for and downloaded to.
            device: device of the tasks.

        Raises:
            UserError: there are no usable data; the message lists what was tried and what to do.
        """

    def load_as_trained(self, learned: Mapping[str, Any], data_root: Path, device: torch.device) -> Tasks:
        """Do what ``load`` does, with inputs and labels prepared as for the run that is tested.

        Args:
            learned: ``Tasks.learned`` of that run.
            data_root: as for ``load``.
            device: as for ``load``.

        Raises:
            UserError: as for ``load``; or these data cannot be prepared so.
        """
        return self.load(data_root, device)


def first_that_works(
    dataset: str, sources: Mapping[str, Callable[[Path], Found]], data_root: Path, cache: Path, by_hand: str
) -> Found:
    """Try sources of a data set in order and return the result of the first that works.

    Args:
        dataset: name of the data set, for the message.
        sources: name -> function that reads the data from ``data_root``; ``download ...`` downloads them there first.
        data_root: argument of the sources.
        cache: prepared cache, which does not exist; for the message.
        by_hand: what a user can do, a full sentence for the message.

    Raises:
        UserError: all sources fail; the message lists them.
    """
    checking = sources_are_checked()
    tried = [] if checking else [f"prepared cache {cache}: not there"]
    for name, source in sources.items():
        if checking and name.startswith("download"):
            continue
        try:
            return source(data_root)
        except Exception as error:  # a source may fail in any way; the next one may work
            tried.append(" ".join(f"{name}: {error or type(error).__name__}".split()))
    raise UserError(
        f"dataset={dataset}: no source works. Tried: {'; '.join(tried)}. By hand: {by_hand} "
        "dataset=glyphs needs nothing."
    )


def task_keys(seed: int, split: Split, indices: range, device: torch.device) -> Tensor:
    """Make the key of each task's random stream, [T] int64."""
    of_split = rng.fold(rng.root(seed, device), split.value)
    return rng.fold(of_split, torch.arange(indices.start, indices.stop, indices.step, device=device))
