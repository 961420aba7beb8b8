"""What outer steps ask about a meta-batch, computed by the engine: losses, divergences, Fisher products, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from metarun.algorithms.base import Algorithm
from metarun.core import outer_step, policy, tree
from metarun.core.acting import ActingTask, acting, mean_valid
from metarun.core.inner import descend, final
from metarun.core.meta import Meta
from metarun.core.outer_step import Trial
from metarun.core.problem import Problem
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine, OverTasks, concatenate, count
from metarun.engine.partial import LinearOverTasks
from metarun.engine.ranks import ALONE, Ranks
from metarun.errors import ConfigError

TRIALS = 3  # in a usual step: before it, and two candidates


def check(algorithm: Algorithm, problem: Problem) -> None:
    """Raise ``UserError`` where the outer step asks what this method or problem cannot answer; before any work."""
    if not algorithm.outer_optimizer.asks:
        return
    key, value = "algo.outer_optimizer", algorithm.outer_optimizer.value
    acting(problem, f"{key}={value}")
    if not algorithm.descends_query_loss():
        raise ConfigError(key, value, "adam or sgd with this method: its meta-gradient is not the query loss's")


class Questions:
    """The questions of outer steps, prepared once for a run.

    Args:
        engine: how to run tasks.
        algorithm: the method that adapts.
        problem: the network and the tasks.
        ranks: the processes of the run.
        tasks: tasks of a meta-batch, on all ranks.
        steps: expected meta-iterations; tracing is chosen from it. 0 disables it.
    """

    def __init__(
        self,
        engine: Engine,
        algorithm: Algorithm,
        problem: Problem,
        ranks: Ranks = ALONE,
        *,
        tasks: int,
        steps: int = 0,
    ):
        self.engine, self.algorithm, self.problem, self.ranks = engine, algorithm, problem, ranks
        self.tasks, self.steps = tasks, steps
        self._now: tuple[Algorithm, Functions] | None = None  # for the method at this point of training

    def about(self, tasks: Any, progress: float = 0.0) -> MetaBatch:
        """Return what answers them for these tasks.

        Args:
            tasks: this rank's tasks with their data, a pytree with leaves [T, ...].
            progress: share (0..1) of meta-training that is done.
        """
        return MetaBatch(self, tasks, progress)

    def functions(self, progress: float) -> Functions:
        """Return the functions of one task for the method at this point of training."""
        algorithm = self.algorithm.at(progress)
        if self._now is None or self._now[0] != algorithm:
            self._now = algorithm, Functions(self, algorithm)
        return self._now[1]


class Functions:
    """Functions of one task and the method, over tasks.

    Args:
        of: the questions.
        algorithm: the method at this point of training.
    """

    def __init__(self, of: Questions, algorithm: Algorithm):
        self.of, self.algorithm = of, algorithm
        self.problem = acting(of.problem, f"algo.outer_optimizer={algorithm.outer_optimizer.value}")
        settings = algorithm.trust_region
        self.judged = OverTasks(of.engine, self._judge, TRIALS * of.steps)
        self.product = LinearOverTasks(of.engine, self._product, settings.cg_steps * of.steps, _sum)
        self.slope = OverTasks(of.engine, self._slope, settings.slopes * of.steps, _sum)
        repeats = (algorithm.promp.steps - 1) * of.steps
        self.clipped = MetaGradient(of.engine, algorithm, self.problem.clipped(algorithm.promp.clip), repeats)
        self.penalty = OverTasks(of.engine, self._penalty, repeats, _sum)

    def _outputs(self, task: ActingTask, meta: Meta) -> Tensor:
        """Adapt to a task and compute the policy's outputs on its query data, [M, H, 2A]."""
        inner = self.algorithm.inner(self.problem, task, training=True)
        adapted = {**meta.model, **final(inner, meta, self.algorithm.inner_steps).params}
        return self.problem.outputs(adapted, task.experience[-1])

    def _judge(self, meta: Meta, task: ActingTask) -> tuple[Trial, Tensor]:
        """Return the task's mean loss and divergence, and the mean size of the terms that cancel in the loss.

        Where the data were collected both means are zero but for rounding. The size lets ``Replay`` tell rounding.
        """
        data, outputs = task.experience[-1], self._outputs(task, meta)
        apart = mean_valid(policy.divergence(data.outputs, outputs), data.valid)
        size = mean_valid((self.problem.ratio(outputs, data) * data.advantage).abs(), data.valid)
        return Trial(self.problem.surrogate(outputs, data), apart), size

    def _product(self, shared: tuple[tuple[Meta, Tensor], Meta], task: ActingTask) -> Meta:
        """Compute J^T D J v / rows: J the Jacobian of the outputs, through the inner steps, D that of ``curvature``.

        At the parameters that collected the data this is the second derivative of the mean KL divergence itself, since
        that is smallest there in every row. It needs no third derivative of the network, and is never negative.
        """
        (meta, rows), v = shared
        data, outputs_of = task.experience[-1], partial(self._outputs, task)
        linearised: Any = vjp(outputs_of, meta)
        outputs, pull = linearised

        def pulled(u: Tensor) -> Meta:  # linear, so that its own transpose is J
            return vjp(outputs_of, meta)[1](u)[0]

        transposed: Any = vjp(pulled, torch.zeros_like(outputs))
        (moved,) = transposed[1](v)
        return pull(policy.curvature(outputs) * data.valid[..., None] / rows * moved)[0]

    def _slope(self, shared: tuple[Meta, Tensor], task: ActingTask) -> Meta:
        """Differentiate this task's share of the mean KL divergence over the valid rows of all tasks."""
        (meta, rows), data = shared, task.experience[-1]
        return grad(lambda m: (policy.divergence(data.outputs, self._outputs(task, m)) * data.valid).sum() / rows)(meta)

    def _penalty(self, meta: Meta, task: ActingTask) -> Meta:
        """Differentiate the mean KL divergence of the policies that each inner step starts from.

        Without inner steps it is that of the policy itself.
        """
        steps = max(1, self.algorithm.inner_steps)

        def divergence(meta: Meta) -> Tensor:
            inner = self.algorithm.inner(self.problem, task, training=True)
            at = [{**meta.model, **carry.params} for carry in descend(inner, meta, steps - 1)]
            return torch.stack([self.problem.divergence(p, task, k) for k, p in enumerate(at)]).mean()

        return grad(divergence)(meta)


class MetaBatch(outer_step.MetaBatch):
    """A meta-batch of policies' experience.

    Args:
        of: the questions.
        tasks: this rank's tasks with their data.
        progress: share (0..1) of meta-training that is done.
    """

    def __init__(self, of: Questions, tasks: Any, progress: float):
        self.of, self.tasks, self.progress = of, tasks, progress

    @cached_property
    def _functions(self) -> Functions:
        return self.of.functions(self.progress)

    @cached_property
    def _rows(self) -> Tensor:
        """Valid query rows of all tasks on all ranks, a scalar."""
        return self.of.ranks.total({"rows": self.tasks.experience[-1].valid.sum()})["rows"]

    def trial(self, meta: Meta) -> Trial:
        found, _ = concatenate(list(self._functions.judged(meta, self.tasks)))
        rows = self.tasks.experience[-1].valid.sum((1, 2))
        sums = self.of.ranks.total({"loss": found.loss.sum(), "kl": (found.kl * rows).sum()})
        return Trial(sums["loss"] / self.of.tasks, sums["kl"] / self._rows)

    def fisher(self, meta: Meta) -> Callable[[Meta], Meta]:
        product = self._functions.product.at((meta, self._rows), self.tasks)
        return lambda v: self.of.ranks.total(_added(product(v)))

    def slope(self, meta: Meta) -> Meta:
        return self.of.ranks.total(_added(self._functions.slope((meta, self._rows), self.tasks)))

    def gradient(self, meta: Meta) -> tuple[Meta, Tensor]:
        ranks, mine, all_tasks = self.of.ranks, count(self.tasks), self.of.tasks
        grads, metrics = self._functions.clipped(meta, self.tasks, self.progress)
        penalty = _added(self._functions.penalty(meta, self.tasks))
        grads = tree.add_scaled(grads, self.of.algorithm.promp.penalty / mine, penalty)
        share = ranks.mean({"clipped": metrics["clipped"].mean()}, mine, all_tasks)
        return ranks.mean(grads, mine, all_tasks), share["clipped"]


def _sum(results: Meta, tasks: int) -> Meta:
    """Add up the results of a chunk, each with leaves [t, ...]."""
    return tree.combine(lambda leaf: leaf.sum(0), results)


def _added(chunks: Iterator[Meta]) -> Meta:
    return reduce(tree.add, chunks)
