"""Reptile: Nichol, Achiam and Schulman 2018, "On first-order meta-learning algorithms", algorithms 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.algorithms.base import GradientBased
from metarun.core import tree
from metarun.core.inner import SGD, Adam, Carry, Inner, InnerOptimizer, descend
from metarun.core.meta import Meta
from metarun.core.problem import Metrics, Problem, require_given_data
from metarun.core.tree import Params
from metarun.errors import require, require_count


@dataclass(kw_only=True, slots=True)
class Reptile(GradientBased):
    """Reptile: the meta-gradient is a task's start minus its end after ``inner_steps`` mini-batch steps.

    With outer SGD of step size eps this is phi <- phi + eps * mean(phi_task - phi) (algorithm 2). Training does not use
    the query set, so a training task has only support examples.

    Attributes:
        train_shot: support examples per class of a training task.
        inner_batch: support examples in an inner step, at most the whole support set; null: all.
        eval_inner_batch: the same in evaluation.
        inner_optimizer: optimiser of the inner loop.
        beta2: decay of inner Adam's second moments; its beta1 is 0.
        eps: epsilon of inner Adam.
        carry_moments: whether a task starts from the Adam moments that earlier tasks ended with, instead of zeros.
    """

    training_shot_keys: ClassVar[str] = "algo.train_shot"
    of_training: ClassVar[tuple[str, ...]] = ("train_shot", "inner_batch")
    train_shot: int
    inner_batch: int | None
    eval_inner_batch: int | None
    inner_optimizer: InnerOptimizer
    beta2: float
    eps: float
    carry_moments: bool

    def __post_init__(self) -> None:
        GradientBased.__post_init__(self)
        require_count("train_shot", self.train_shot, most=10**6)
        for name in ("inner_batch", "eval_inner_batch"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), most=10**6)
        require(0 <= self.beta2 < 1, "beta2", self.beta2, ">= 0 and < 1")
        require(self.eps > 0, "eps", self.eps, "> 0")
        uses_adam = self.inner_optimizer is InnerOptimizer.adam
        require(uses_adam or not self.carry_moments, "carry_moments", self.carry_moments, "false with inner SGD")
        plain = self.is_proportional() or not self.carry_moments
        require(plain, "carry_moments", self.carry_moments, "false with outer Adam or clipping")

    def check_problem(self, problem: Problem, params: Params) -> None:
        require_given_data(problem, "algo=reptile", "the end of many steps says nothing of the return")

    def unread(self) -> dict[str, str]:
        adam = dict.fromkeys(("beta2", "eps"), "algo.inner_optimizer=adam")
        return GradientBased.unread(self) | (adam if self.inner_optimizer is InnerOptimizer.sgd else {})

    def training_shots(self, shot: int, query: int) -> tuple[int, int]:
        return self.train_shot, 0

    def _optimizer(self) -> SGD | Adam:
        if self.inner_optimizer is InnerOptimizer.sgd:
            return SGD(lr=self.inner_lr)
        return Adam(lr=self.inner_lr, beta2=self.beta2, eps=self.eps)

    def batch(self, training: bool) -> int | None:
        return self.inner_batch if training else self.eval_inner_batch

    def init(self, params: Params) -> Meta:
        """Make the first meta-parameters; with ``carry_moments`` they include the state of inner Adam.

        The published code runs one task after another and passes the moments on. Here tasks run side by side, so the
        moments move like the weights: towards their mean over the meta-batch.
        """
        return Meta.of(params, inner_state=self._optimizer().init(params) if self.carry_moments else {})

    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        optimizer, seen = self._optimizer(), self.seen(problem, training)

        def start(meta: Meta) -> Carry:
            return Carry(meta.model, meta.inner_state or optimizer.init(meta.model))

        def step(meta: Meta, carry: Carry, k: int) -> Carry:
            return optimizer.update(carry, torch.func.grad(lambda p: seen.support_loss(p, task, k))(carry.params))

        return Inner(start, step)

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        """Compute start minus end. The metrics are those of the last mini-batch, before the step on it."""
        *_, before, last = descend(self.inner(problem, task, training=True), meta, self.inner_steps)
        metrics = self.seen(problem, True).support_metrics(before.params, task, self.inner_steps - 1)
        end = Meta.of(last.params, inner_state=last.state if meta.inner_state else {})
        return tree.subtract(meta, end), metrics
