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
from metarun.core.objective import one_output_a_class
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.errors import UserError, require, require_count

STATE = "state."  # prefix of the network's buffers with the fields of memory_cell.State


class Measure(enum.Enum):
    """Examples on which a task is evaluated after k steps.

    Attributes:
        query: the query set, after k examples of each class were read, as for every other method.
        instances: as published: the support set is read in random order, and the k+1st example of each class is
            predicted before its label is read.
    """

    query = "query"
    instances = "instances"


@dataclass(kw_only=True, slots=True)
class MANN(Algorithm):
    """Adapts by reading: the network gets x_t with the label y_t-1 and predicts y_t; only its state changes.

    An inner step reads one more example of each class, in random order; after the last example the first follows again.
    The support set of a training task is ``inner_steps`` examples of each class. Meta-training reads it as one sequence
    in random order and descends the mean cross-entropy of all predictions; the metrics are means over the sequence.

    Attributes:
        slots: slots of the memory.
        measure: examples on which a task is evaluated.

    Source: section 3 of the paper; the cell is in memory_cell.py.
    """

    training_shot_keys: ClassVar[str] = "algo.inner_steps"
    equal_shots: ClassVar[bool] = True
    slots: int
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

    def check_problem(self, problem: Problem, params: Params) -> None:
        one_output_a_class(problem, "algo=mann")

    def predicts_unadapted(self, problem: Problem) -> bool:
        return False

    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        way, x = one_output_a_class(problem, "algo=mann").way, task.support_x
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
        tasks, order, params = one_output_a_class(problem, "algo=mann"), self._order(task), meta.model
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
        tasks, order, params = one_output_a_class(problem, "algo=mann"), self._order(task), meta.model
        x, y = task.support_x[order], task.support_y[order]
        labels = one_hot(y, tasks.way, x)
        blank = memory_cell.blank(params, self.slots)
        states = memory_cell.follow(params, blank, memory_cell.project(params, x), labels)
        logits = memory_cell.classify(params, torch.stack([state.features for state in states]))
        seen = (labels.cumsum(0) * labels).sum(1)  # whether the example is the first, second, ... of its class
        instance = seen.argsort(stable=True).reshape(-1, tasks.way)  # [examples of a class, N] sequence positions
        for k in steps:
            places = instance[min(k, len(instance) - 1)]  # after the last example its value is repeated
            yield tasks.measured([logits[places]], y[places])

    def _order(self, task: Any) -> Tensor:
        """Indices of the support set in random order, [N*K]."""
        examples = len(task.support_y)
        return minibatch(task.key, examples, examples, 0)


def one_hot(labels: Tensor, way: int, like: Tensor) -> Tensor:
    """Encode labels [B] as [B, N], with the dtype of ``like``; ``F.one_hot`` reads the values, which vmap forbids."""
    return (labels[:, None] == torch.arange(way, device=labels.device)).to(like)


def _carry(state: memory_cell.State) -> Carry:
    return Carry({STATE + name: value for name, value in state._asdict().items()}, {})
