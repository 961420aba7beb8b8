"""Transfer learning: ordinary supervised training on the meta-training data, then fine-tuning on each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import grad_and_value

from metarun.algorithms.base import GradientDescent
from metarun.core.episode import View
from metarun.core.meta import Meta
from metarun.core.objective import supervised
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.errors import UserError, require

RATE = "all"  # what the step size of fine-tuning is called among the step sizes


@dataclass(kw_only=True, slots=True)
class Pretrain(GradientDescent):
    """Descend the loss on mini-batches of all meta-training classes, or of all tasks' points for regression.

    A task then begins with a head of zeros, since its classes are others (unless labels are the same in all tasks), and
    takes gradient steps on the support set, of the step size among ``rates`` that did best on the validation tasks.
    """

    fewest_inner_steps: ClassVar[int] = 0
    view: ClassVar[View] = View.pooled
    fixed: ClassVar[tuple[str, ...]] = ("algo.inner_steps",)
    rates: list[float]  # without validation tasks it is ``inner_lr``

    def __post_init__(self) -> None:
        GradientDescent.__post_init__(self)
        self.inner_steps = 0  # also where a data set has another default, for methods that adapt while training
        require(all(rate > 0 for rate in self.rates) and bool(self.rates), "rates", self.rates, "step sizes > 0")

    def init(self, params: Params) -> Meta:
        if self.view is View.pooled and "head.weight" not in params:
            raise UserError(
                "model: algo=pretrain puts a new head on the network, whose last layer must be called head, not frozen"
            )
        adapts = self.view is not View.pooled or self.moves("head.weight")
        require(adapts, "algo.frozen", self.frozen, "such that the head, new to a task's classes, is left to adapt")
        like = next(iter(params.values()))
        GradientDescent.init(self, params)
        return Meta.of(params, step_sizes={RATE: like.new_tensor(self.inner_lr)})

    def candidates(self, meta: Meta) -> list[Meta]:
        now = meta.step_sizes[RATE]
        return [meta._replace(step_sizes={RATE: torch.full_like(now, rate)}) for rate in self.rates]

    def start(self, problem: Problem, meta: Meta) -> Params:
        if self.view is not View.pooled:
            return meta.model
        tasks = supervised(problem, "algo=pretrain")
        if tasks.fixed_labels:
            return meta.model
        head = {name: p for name, p in meta.model.items() if name.startswith("head.")}
        return meta.model | {name: p.new_zeros(tasks.outputs, *p.shape[1:]) for name, p in head.items()}

    def step_size(self, meta: Meta, name: str, k: int) -> Tensor | float:
        return meta.step_sizes[RATE]

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        grads, (_, metrics) = grad_and_value(lambda meta: problem.whole_loss(meta.model, task), has_aux=True)(meta)
        return grads, metrics
