"""The one place that batches tasks: per-task functions in, results for T tasks out."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from metarun import tree
from metarun.algorithms.base import Algorithm
from metarun.episode import Episode
from metarun.hypergrad import Metrics
from metarun.losses import Objective
from metarun.tree import Params

Result = TypeVar("Result")


class Vectorize(enum.Enum):
    """How the tasks of a meta-batch are run: side by side in one ``vmap``, or one after another.

    ``auto`` takes vmap, except on a CPU for networks with 3x3 or larger convolutions of stride 1: their large
    activations, batched over tasks, pass many times over memory that no longer fits the cache. Elsewhere Python's
    or the GPU's launching of small operations is what costs, and side by side pays it once. Recurrent layers run
    one task at a time everywhere: torch cannot vmap them.
    """

    auto = "auto"
    vmap = "vmap"
    loop = "loop"

    def resolve(self, device: torch.device, module: nn.Module) -> Vectorize:
        """``auto`` replaced by what it stands for on this device and network."""
        if self is not Vectorize.auto:
            return self
        large = any(
            isinstance(m, nn.Conv2d) and m.stride == (1, 1) and m.kernel_size >= (3, 3) for m in module.modules()
        )
        recurrent = any(isinstance(m, nn.RNNBase | nn.RNNCellBase) for m in module.modules())
        return Vectorize.loop if recurrent or (device.type == "cpu" and large) else Vectorize.vmap


def over_tasks(
    task_fn: Callable[[Episode], Result], episodes: Episode, how: Vectorize, chunk: int | None = None
) -> Iterator[Result]:
    """Results of ``task_fn`` (one task in, tensors out) stacked over chunks of tasks: leaves [t, ...], t <= chunk.

    ``how`` must not be ``auto``. ``chunk`` bounds the tasks that are in memory at once; None: all in one.
    The vmap is outermost and ``task_fn`` holds every derivative, which is what keeps them right (hypergrad.py).
    """
    tasks = len(episodes.key)
    size = min(chunk or tasks, tasks)
    for first in range(0, tasks, size):
        part = Episode(*(field[first : first + size] for field in episodes))
        if how is Vectorize.vmap:
            yield vmap(task_fn)(part)
        else:
            rows = [task_fn(Episode(*row)) for row in zip(*part, strict=True)]
            yield pytree.tree_map(lambda *leaves: torch.stack(leaves), *rows)


def meta_gradient(
    algorithm: Algorithm,
    objective: Objective,
    meta: Params,
    episodes: Episode,
    how: Vectorize,
    chunk: int | None = None,
) -> tuple[Params, Metrics]:
    """Mean of the tasks' meta-gradients, like ``meta``, and their metrics, each [T]."""
    total: Params | None = None
    metrics: list[Any] = []
    for grads, chunk_metrics in over_tasks(lambda t: algorithm.meta_grad(objective, meta, t), episodes, how, chunk):
        part = tree.combine(lambda g: g.sum(0), grads)
        total = part if total is None else tree.add(total, part)
        metrics.append(chunk_metrics)
    assert total is not None
    return tree.scale(1 / len(episodes.key), total), concatenate(metrics)


def concatenate(chunks: list[Any]) -> Any:
    """Chunks of results joined along their axis T."""
    return pytree.tree_map(lambda *leaves: torch.cat(leaves), *chunks)
