"""The meta-gradient of a meta-batch: the mean over its tasks, computed by the engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm
from metarun.core import tree
from metarun.core.meta import Meta
from metarun.core.problem import Metrics, Problem
from metarun.engine.over_tasks import TRACED_STEPS, Compile, Engine, OverTasks, concatenate


class MetaGradient:
    """Compute the mean meta-gradient of T tasks.

    Args:
        engine: how to run tasks.
        algorithm: the method whose ``meta_grad`` is averaged.
        problem: the network and the tasks' losses.
        calls: expected calls over the whole of meta-training, as for ``OverTasks``.
    """

    def __init__(self, engine: Engine, algorithm: Algorithm, problem: Problem, calls: int = 0):
        self.engine, self.algorithm, self.problem, self.calls = engine, algorithm, problem, calls
        self._now: tuple[Algorithm, OverTasks] | None = None  # the method at this point of training

    def _prepare(self, algorithm: Algorithm) -> OverTasks:
        def weighted(results: tuple[Meta, Metrics], tasks: int) -> tuple[Meta, Metrics]:
            grads, metrics = results
            return tree.combine(lambda g: g.sum(0) / tasks, grads), metrics

        def one_task(shared: tuple[Meta, Tensor], task: Any) -> tuple[Meta, Metrics]:
            meta, progress = shared
            return algorithm.meta_grad(self.problem, meta, task, progress)

        too_long = self.engine.compile is Compile.auto and algorithm.inner_steps > TRACED_STEPS
        return OverTasks(self.engine, one_task, 0 if too_long else self.calls, weighted)

    def __call__(self, meta: Meta, tasks: Any, progress: float = 0.0) -> tuple[Meta, Metrics]:
        """Return the mean of the tasks' meta-gradients, and the tasks' metrics, each [T].

        Args:
            meta: the meta-parameters.
            tasks: a pytree with leaves [T, ...]; their data are collected already (collect.py).
            progress: fraction of meta-training that is done, 0..1, for methods with a schedule.
        """
        algorithm = self.algorithm.at(progress)
        if self._now is None or self._now[0] != algorithm:
            self._now = algorithm, self._prepare(algorithm)
        now = next(tree.leaves(meta)).new_tensor(progress, dtype=torch.float64)
        chunks = list(self._now[1]((meta, now), tasks))
        total = chunks[0][0]
        for grads, _ in chunks[1:]:
            total = tree.add(total, grads)
        return total, concatenate([metrics for _, metrics in chunks])
