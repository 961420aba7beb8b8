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
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.errors import require, require_count


@dataclass(kw_only=True, slots=True)
class Reptile(GradientBased):
    """Meta-gradient: where the task started minus where ``inner_steps`` mini-batch steps took it.

    With an outer SGD of step size eps this is phi <- phi + eps * mean(phi_task - phi) (algorithm 2). The query set
    is not used in training, so a training task has only support examples, ``train_shot`` a class.
    """

    training_shot_keys: ClassVar[str] = "algo.train_shot"
    of_training: ClassVar[tuple[str, ...]] = ("train_shot", "inner_batch")
    train_shot: int
    inner_batch: int | None  # support examples that an inner step sees, at most all; null: all
    eval_inner_batch: int | None
    inner_optimizer: InnerOptimizer
    beta2: float  # Adam's; its beta1 is 0
    eps: float  # Adam's
    carry_moments: bool  # start each task from the Adam moments that earlier tasks ended with, not from zero

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
        """With ``carry_moments`` the inner Adam's state is part of the meta-parameters.

        The published code runs one task after another and hands the moments on. Tasks here run side by side, so
        the moments move like the weights do: towards their mean over the meta-batch.
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
        """Start minus end. The metrics are the last mini-batch's, before the step on it."""
        *_, before, last = descend(self.inner(problem, task, training=True), meta, self.inner_steps)
        metrics = self.seen(problem, True).support_metrics(before.params, task, self.inner_steps - 1)
        end = Meta.of(last.params, inner_state=last.state if meta.inner_state else {})
        return tree.subtract(meta, end), metrics
