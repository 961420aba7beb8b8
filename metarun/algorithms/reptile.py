"""Reptile: Nichol, Achiam and Schulman 2018, "On first-order meta-learning algorithms", algorithms 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun.algorithms.base import GradientBased, model_params
from metarun.core import tree
from metarun.core.episode import Episode
from metarun.core.hypergrad import Metrics
from metarun.core.inner import SGD, Adam, Carry, Inner, InnerOptimizer, descend, minibatches
from metarun.core.objective import Objective
from metarun.core.outer import OuterOptimizer
from metarun.core.tree import Params
from metarun.errors import require, require_count


@dataclass(kw_only=True, slots=True)
class Reptile(GradientBased):
    """Meta-gradient: where the task started minus where ``inner_steps`` mini-batch steps took it.

    With an outer SGD of step size eps this is phi <- phi + eps * mean(phi_task - phi) (algorithm 2). The query set
    is not used in training, so a training task has only support examples, ``train_shot`` a class.
    """

    of_training: ClassVar[tuple[str, ...]] = ("train_shot", "inner_batch")
    train_shot: int
    inner_batch: int  # examples in a mini-batch of the inner loop; never more than the support set holds
    eval_inner_batch: int
    inner_optimizer: InnerOptimizer
    beta2: float  # Adam's; its beta1 is 0
    eps: float  # Adam's
    carry_moments: bool  # start each task from the Adam moments that earlier tasks ended with, not from zero

    def __post_init__(self) -> None:
        GradientBased.__post_init__(self)
        for name in ("train_shot", "inner_batch", "eval_inner_batch"):
            require_count(name, getattr(self, name), most=10**6)
        require(0 <= self.beta2 < 1, "beta2", self.beta2, ">= 0 and < 1")
        require(self.eps > 0, "eps", self.eps, "> 0")
        uses_adam = self.inner_optimizer is InnerOptimizer.adam
        require(uses_adam or not self.carry_moments, "carry_moments", self.carry_moments, "false with inner SGD")
        plain = self.outer_optimizer is OuterOptimizer.sgd and self.clip_value is None and self.clip_norm is None
        require(
            plain or not self.carry_moments, "carry_moments", self.carry_moments, "false with outer Adam or clipping"
        )

    def training_shots(self, shot: int, query: int) -> tuple[int, int]:
        return self.train_shot, 0

    def _optimizer(self) -> SGD | Adam:
        if self.inner_optimizer is InnerOptimizer.sgd:
            return SGD(lr=self.inner_lr)
        return Adam(lr=self.inner_lr, beta2=self.beta2, eps=self.eps)

    def _order(self, examples: int, key: Tensor, training: bool) -> Tensor:
        """[S, batch] which support examples each inner step sees."""
        steps = self.inner_steps if training else self.eval_inner_steps
        batch = self.inner_batch if training else self.eval_inner_batch
        return minibatches(key, examples, min(batch, examples), steps)

    def init(self, params: Params) -> Params:
        """With ``carry_moments`` the inner Adam's state is part of the meta-parameters, under ``inner.``.

        The published code runs one task after another and hands the moments on. Tasks here run side by side, so
        the moments move like the weights do: towards their mean over the meta-batch.
        """
        state = self._optimizer().init(params) if self.carry_moments else {}
        return params | {f"inner.{name}": value for name, value in state.items()}

    def inner(self, objective: Objective, x: Tensor, y: Tensor, key: Tensor, *, training: bool) -> Inner:
        optimizer = self._optimizer()
        order = self._order(len(x), key, training)

        def start(meta: Params) -> Carry:
            params = model_params(meta)
            handed_on = {name.removeprefix("inner."): value for name, value in meta.items() if name not in params}
            return Carry(params, handed_on or optimizer.init(params))

        def step(meta: Params, carry: Carry, k: int) -> Carry:
            def loss(params: Params) -> Tensor:
                return objective.inner_loss(params, x[order[k]], y[order[k]], self.inner_loss)

            return optimizer.update(carry, torch.func.grad(loss)(carry.params))

        return Inner(start, step)

    def meta_grad(self, objective: Objective, meta: Params, task: Episode) -> tuple[Params, Metrics]:
        """Start minus end. The metrics are the last mini-batch's, before the step on it."""
        x, y = task.support_x, task.support_y
        *_, before, last = descend(self.inner(objective, x, y, task.key, training=True), meta, self.inner_steps)
        seen = self._order(len(x), task.key, training=True)[self.inner_steps - 1]
        _, metrics = objective.query_loss(before.params, x[seen], y[seen])
        end = last.params | {f"inner.{name}": last.state[name] for name in last.state if f"inner.{name}" in meta}
        return tree.subtract(meta, end), metrics
