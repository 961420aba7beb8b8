"""Class pools: images or other examples in device memory, from which episodes are drawn by indexing."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.episode import Episode, TaskFigure, View
from metarun.core.objective import Supervised, classification
from metarun.core.tree import Params
from metarun.datasets.base import Split, Tasks, task_keys
from metarun.errors import TooFewExamples, UserError, require


class Rotations(enum.Enum):
    """Quarter turns as augmentation.

    Attributes:
        none: no turns.
        per_task: each class of each task, in training and test, is turned by 0, 90, 180 or 270 degrees (MAML).
        as_classes: each turn of a meta-training class is a separate class; no turns in validation and test (Reptile).
        as_classes_everywhere: each turn is a separate class in every split, so that a test task may contain a class
            and its turns (prototypical networks).
    """

    none = "none"
    per_task = "per_task"
    as_classes = "as_classes"
    as_classes_everywhere = "as_classes_everywhere"

    def multiplies(self, split: Split) -> bool:
        """Whether turns of the split's classes are separate classes."""
        return self is Rotations.as_classes_everywhere or (self is Rotations.as_classes and split is Split.train)


class Pool(NamedTuple):
    """The classes of one split, one after another.

    Attributes:
        images: uint8 [images, C, H, W], or float32 examples of any shape.
        first: int64 [classes], row of each class's first image.
        counts: int64 [classes], images of each class.
        most: images of the largest class.
        names: names of the classes.
    """

    images: Tensor
    first: Tensor
    counts: Tensor
    most: int
    names: list[str]


class ClassPool(Tasks):
    """Few-shot tasks on classes of images or other examples, split into meta-training, validation and test.

    Args:
        images: uint8 [images, C, H, W], or float32 examples of any shape, which are used as they are; the classes one
            after another.
        counts: images of each class.
        splits: class numbers of each split, disjoint.
        rotations: quarter turns as augmentation.
        device: device of images and tasks.
        stamp: facts for the protocol.
        names: names of the classes; None: their numbers.
        fixed_labels: True: every task has all classes of its split, and the n-th always has label n; False: a task
            draws its classes, in random order.
        few_classes: text added to the message about too few classes.
        few_images: the same for too few images; ``{}`` in it becomes the number of images needed.
        noun: what examples are called in messages.
        learned: see ``Tasks``.
    """

    def __init__(
        self,
        images: np.ndarray,
        counts: Sequence[int] | np.ndarray,
        splits: dict[Split, list[int]],
        rotations: Rotations,
        device: torch.device,
        stamp: dict[str, str],
        *,
        names: Sequence[str] | None = None,
        fixed_labels: bool = False,
        few_classes: str = "",
        few_images: str = "",
        noun: str = "images",
        learned: Mapping[str, Any] | None = None,
    ):
        if len(images) > 1 and all(np.array_equal(image, images[0]) for image in images):
            raise UserError(f"dataset: its {len(images)} {noun} are all alike, so there is nothing to tell apart")
        self.few_classes, self.few_images, self.noun, self.learned = few_classes, few_images, noun, learned or {}
        self.fixed_labels = fixed_labels
        self.rotations, self.device, self.stamp = rotations, device, stamp
        self.input_shape = tuple(images.shape[1:])
        self.figure = figure_of(self.input_shape)
        last = np.cumsum(counts)
        of_class = [np.arange(end - count, end) for end, count in zip(last, counts, strict=True)]
        self.pools: dict[Split, Pool] = {}
        for split, chosen in splits.items():
            sizes = np.array([len(of_class[c]) for c in chosen], np.int64)
            rows = np.concatenate([np.empty(0, np.int64), *(of_class[c] for c in chosen)])
            self.pools[split] = Pool(
                images=torch.from_numpy(_rows(images, rows)).to(device),
                first=torch.from_numpy(np.cumsum(sizes) - sizes).to(device),
                counts=torch.from_numpy(sizes).to(device),
                most=max(sizes.tolist(), default=0),
                names=[names[c] if names else str(c) for c in chosen],
            )
        # [4, H*W]: source of each pixel of an image turned r times; turns need square images
        self.turns = quarter_turns(self.input_shape[1:], device) if self._turned else None

    @property
    def _turned(self) -> bool:
        return self.rotations is not Rotations.none

    def classes(self, split: Split) -> int:
        """Return the number of classes that a task of this split can draw from."""
        return len(self.pools[split].counts) * (4 if self.rotations.multiplies(split) else 1)

    def has(self, split: Split) -> bool:
        return len(self.pools[split].counts) > 0

    def class_names(self, split: Split) -> list[str] | None:
        return None if self.fixed_labels else self.pools[split].names

    def sizes(self, split: Split) -> dict[str, int]:
        pool = self.pools[split]
        return dict(zip(pool.names, pool.counts.tolist(), strict=True))

    def drawn(self, split: Split, seed: int, indices: range, way: int) -> list[list[str]]:
        classes, turn = self._classes(split, task_keys(seed, split, indices, self.device), way)
        names, turned = self.pools[split].names, self.rotations.multiplies(split)
        told = [[name + (f", turned by {90 * t}" if turned else "") for t in range(4)] for name in names]
        tasks = zip(classes.tolist(), turn.tolist(), strict=True)
        return [[told[c][t] for c, t in zip(*task, strict=True)] for task in tasks]

    def _classes(self, split: Split, key: Tensor, way: int) -> tuple[Tensor, Tensor]:
        """The classes of each task, and the quarter turns that make them separate classes; both [T, N]."""
        if self.fixed_labels:
            chosen = torch.arange(way, device=self.device).expand(len(key), -1)
        else:
            chosen = rng.permutation(rng.fold(key, 0), self.classes(split))[:, :way]
        known = len(self.pools[split].counts)
        return chosen % known, chosen // known

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        classes = self.classes(split)
        fixed = f"{classes}, all classes of the split, since a class has always the same label"
        require(way == classes or not self.fixed_labels, "way", way, fixed)
        if way > classes:
            raise UserError(f"way={way}: the {split.name} split has only {classes} classes{self.few_classes}")
        pool = self.pools[split]
        least, name = min(zip(pool.counts.tolist(), pool.names, strict=True))
        if shot + query > least:
            raise TooFewExamples(
                f"{shot} support + {query} query {self.noun} per class ({split.name}) are {shot + query}, "
                f"but class {name} has only {least}",
                self.few_images.format(shot + query),
            )

    def outputs(self, way: int) -> int:
        return way

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        return classification(forward, way, self.fixed_labels)

    def look_up(self, split: Split, classes: Tensor, instance: Tensor, turn: Tensor) -> Tensor:
        """Look images up.

        Args:
            split: the split.
            classes: class numbers within the split.
            instance: number of the image within its class.
            turn: quarter turns, 0..3. The three broadcast to [...].

        Returns:
            [..., C, H, W] float32 in 0..1, or float32 examples as they are.
        """
        pool = self.pools[split]
        x = pool.images[pool.first[classes] + instance]
        if self.turns is not None:
            flat = x.flatten(-2)
            source = self.turns[turn][..., None, :]  # [..., 1, H*W]
            x = flat.gather(-1, source.expand_as(flat)).view_as(x)
        return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x

    def seen(self, view: View) -> Tasks:
        return Pooled(self) if view is View.pooled else Tasks.seen(self, view)

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        """Draw classes, then images of each class, both without replacement and in random order.

        The order of the classes decides the labels, so labels are random too, unless they are fixed.
        """
        pool = self.pools[split]
        key = task_keys(seed, split, indices, self.device)  # [T]
        classes, turn = self._classes(split, key, way)
        of_class = rng.fold(rng.fold(key, 1)[:, None], torch.arange(way, device=self.device))  # [T, N]
        instance = rng.subset(of_class, pool.counts[classes], pool.most, shot + query)  # [T, N, K+Q]
        if self.rotations is Rotations.per_task:
            turn = rng.integers(rng.fold(key, 2), way, below=4)  # [T, N]
        x = self.look_up(split, classes[..., None], instance, turn[..., None])  # [T, N, K+Q, C, H, W]
        label = torch.arange(way, device=self.device)
        return Episode(
            support_x=x[:, :, :shot].flatten(1, 2),
            support_y=label.repeat_interleave(shot).expand(len(indices), -1),
            query_x=x[:, :, shot:].flatten(1, 2),
            query_y=label.repeat_interleave(query).expand(len(indices), -1),
            key=rng.fold(key, 3),
        )


def _rows(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows, which are copied only if they are not consecutive: a set may be larger than the memory."""
    consecutive = len(rows) > 0 and bool((np.diff(rows) == 1).all())
    return images[rows[0] : rows[-1] + 1] if consecutive else images[rows]


def figure_of(shape: tuple[int, ...]) -> TaskFigure:
    """Return the kind of figure that shows labelled examples of this shape."""
    if len(shape) == 3 and shape[0] in (1, 3):
        return TaskFigure.images
    return TaskFigure.points if shape == (2,) else TaskFigure.none


def quarter_turns(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the source of each pixel of a square image [H, W] that is turned r times, [4, H*W]."""
    pixels = torch.arange(math.prod(sides), device=device).reshape(sides)
    return torch.stack([torch.rot90(pixels, r).flatten() for r in range(4)])


class Pooled(Tasks):
    """A class pool whose meta-training split is ordinary supervised data: all classes at once, labelled by number.

    In place of a task there is a mini-batch of the same number of images, from any classes, drawn with replacement.
    """

    def __init__(self, pool: ClassPool):
        self.pool, self.input_shape, self.stamp, self.figure = pool, pool.input_shape, pool.stamp, pool.figure
        self.learned = pool.learned

    def has(self, split: Split) -> bool:
        return self.pool.has(split)

    def class_names(self, split: Split) -> list[str] | None:
        return self.pool.class_names(split)

    def drawn(self, split: Split, seed: int, indices: range, way: int) -> list[list[str]] | None:
        return None if split is Split.train else self.pool.drawn(split, seed, indices, way)

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        if split is not Split.train:
            self.pool.check(split, way, shot, query)

    def outputs(self, way: int) -> int:
        if not self.has(Split.train):
            raise UserError("dataset: no class is for training, and the network of algo=pretrain tells those apart")
        return self.pool.classes(Split.train)

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        return self.pool.problem(forward, way)

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        if split is not Split.train:
            return self.pool.sample(split, seed, indices, way, shot, query)
        key = task_keys(seed, split, indices, self.pool.device)  # [T]
        images, known = way * (shot + query), self.pool.pools[split].counts
        label = rng.integers(rng.fold(key, 0), images, below=self.pool.classes(split))  # [T, N*(K+Q)]
        classes, turn = label % len(known), label // len(known)
        if self.pool.rotations is Rotations.per_task:
            turn = rng.integers(rng.fold(key, 2), images, below=4)
        instance = (rng.uniform(rng.fold(key, 1), images) * known[classes]).long()
        x = self.pool.look_up(split, classes, instance, turn)
        part = way * shot
        return Episode(x[:, :part], label[:, :part], x[:, part:], label[:, part:], rng.fold(key, 3))
