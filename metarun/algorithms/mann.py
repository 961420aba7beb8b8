"""MANN: Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, "Meta-learning with memory-augmented networks"."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm
from metarun.core import memory_cell, rng
from metarun.core.batch_norm import Norm
from metarun.core.inner import Carry, Inner, minibatch
from metarun.core.meta import Meta
from metarun.core.objective import supervised
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.errors import UserError, require, require_count

STATE = "state."  # what the network's state is called, before the names of memory_cell.State


class Measure(enum.Enum):
    """By what a task is judged after k steps.

    query: its query set, after k rounds of the support set, as every other method. instances: as published, the
    support set in random order, and of it the k+1st example of each class, before its label is seen.
    """

    query = "query"
    instances = "instances"


@dataclass(kw_only=True, slots=True)
class MANN(Algorithm):
    """Learns by reading: the network sees x_t with the label y_t-1 and predicts y_t; only its state adapts.

    An inner step reads one more example of each class, in random order; after the last one the first again.
    Meta-training descends the mean cross-entropy of all predictions in a sequence of ``inner_steps`` examples of each
    class in random order, which are a training task's support set; its metrics are means over the sequence.
    """

    training_shot_keys: ClassVar[str] = "algo.inner_steps"
    slots: int  # of the memory
    measure: Measure

    def __post_init__(self) -> None:
        Algorithm.__post_init__(self)
        require_count("slots", self.slots, most=10**6)

    def training_shots(self, shot: int, query: int) -> tuple[int, int]:
        return self.inner_steps, 0

    def stamp(self) -> dict[str, str]:
        by_instance = {"judged by": "k+1st instance of each class, k steps; no query set"}
        return by_instance if self.measure is Measure.instances else {}

    def init(self, params: Params) -> Meta:
        if not {"input.weight", "recurrent.weight", "head.weight", "head.bias"} <= params.keys():
            raise UserError(
                "algo=mann: needs a network that has a state, nothing of it frozen; choose model=mann or model=lstm"
            )
        heads = len(memory_cell.blank(params, self.slots).read)
        require(self.slots >= heads, "algo.slots", self.slots, f">= {heads}, the number of heads")
        return Meta.of(params)

    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        way, x = supervised(problem, "algo=mann").way, task.support_x
        labels, shot = one_hot(task.support_y, way, x), len(x) // way

        def start(meta: Meta) -> Carry:
            return _carry(memory_cell.blank(meta.model, self.slots))

        def step(meta: Meta, carry: Carry, k: int) -> Carry:
            state, params = memory_cell.State(*carry.params.values()), meta.model
            chosen = shot * rng.permutation(rng.fold(task.key, k), way) + k % shot
            *_, state = memory_cell.follow(params, state, memory_cell.project(params, x[chosen]), labels[chosen])
            return _carry(state)

        return Inner(start, step)

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        tasks, order, params = supervised(problem, "algo=mann"), self._order(task), meta.model
        x, y = task.support_x[order], task.support_y[order]
        blank, labels = memory_cell.blank(params, self.slots), one_hot(y, tasks.way, x)
        grads, metrics = memory_cell.gradient(params, blank, x, labels, lambda logits: tasks.judged(logits, y))
        return Meta.of(grads), metrics

    def measure_adaptation(
        self, problem: Problem, meta: Meta, task: Any, steps: range, norms: list[Norm]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if self.measure is Measure.query:
            yield from Algorithm.measure_adaptation(self, problem, meta, task, steps, norms)
            return
        tasks, order, params = supervised(problem, "algo=mann"), self._order(task), meta.model
        x, y = task.support_x[order], task.support_y[order]
        labels = one_hot(y, tasks.way, x)
        blank = memory_cell.blank(params, self.slots)
        states = memory_cell.follow(params, blank, memory_cell.project(params, x), labels)
        logits = memory_cell.classify(params, torch.stack([state.features for state in states]))
        seen = (labels.cumsum(0) * labels).sum(1)  # the example is its class's first, second, ...
        instance = seen.argsort(stable=True).reshape(-1, tasks.way)  # [examples of a class, N] places in the sequence
        for k in steps:
            places = instance[min(k, len(instance) - 1)]  # when all are read, the last stands
            yield tasks.measured([logits[places]], y[places])

    def _order(self, task: Any) -> Tensor:
        """[N*K] places in the support set, in random order."""
        examples = len(task.support_y)
        return minibatch(task.key, examples, examples, 0)


def one_hot(labels: Tensor, way: int, like: Tensor) -> Tensor:
    """[B, N] of the type of ``like``, from labels [B]. torch's own looks at the values, which vmap forbids."""
    return (labels[:, None] == torch.arange(way, device=labels.device)).to(like)


def _carry(state: memory_cell.State) -> Carry:
    return Carry({STATE + name: value for name, value in state._asdict().items()}, {})
