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

RATE = "all"  # name of the fine-tuning step size in ``Meta.step_sizes``


@dataclass(kw_only=True, slots=True)
class Pretrain(GradientDescent):
    """Train on mini-batches of all meta-training classes, or for regression of all tasks' points; fine-tune at test.

    A task starts with a head of zeros, since its classes are different (unless labels are the same in all tasks). It
    takes gradient steps on the support set, with the step size among ``rates`` that was best on the validation tasks.

    Attributes:
        rates: step sizes for fine-tuning; of several, without validation tasks, none: ``inner_lr`` is used.
    """

    fewest_inner_steps: ClassVar[int] = 0
    view: ClassVar[View] = View.pooled
    fixed: ClassVar[tuple[str, ...]] = ("algo.inner_steps",)
    rates: list[float]

    def __post_init__(self) -> None:
        GradientDescent.__post_init__(self)
        self.inner_steps = 0  # a data set's preset is for methods that adapt in training
        require(all(rate > 0 for rate in self.rates) and bool(self.rates), "rates", self.rates, "step sizes > 0")

    def init(self, params: Params) -> Meta:
        like = next(iter(params.values()))
        GradientDescent.init(self, params)
        return Meta.of(params, step_sizes={RATE: like.new_tensor(self.inner_lr)})

    def check_problem(self, problem: Problem, params: Params) -> None:
        GradientDescent.check_problem(self, problem, params)
        if not self.new_head(problem):
            return
        if "head.weight" not in params or not params["head.weight"].requires_grad:
            raise UserError(
                "model: algo=pretrain puts a new head on the network, whose last layer must be called head, not frozen"
            )
        adapts = all(self.moves(name) for name in params if name.startswith("head."))
        require(adapts, "algo.frozen", self.frozen, "such that the head, new to a task's classes, is left to adapt")

    def new_head(self, problem: Problem) -> bool:
        """Whether a task starts with a new last layer, since its classes are not those of pretraining."""
        if self.view is not View.pooled or problem.collects:
            return False
        return not supervised(problem, "algo=pretrain").fixed_labels

    def any_way(self, problem: Problem) -> bool:
        return self.new_head(problem)

    def descends_query_loss(self) -> bool:
        return True

    def candidates(self, meta: Meta) -> list[Meta]:
        now = meta.step_sizes[RATE]
        return [meta._replace(step_sizes={RATE: torch.full_like(now, rate)}) for rate in self.rates]

    def start(self, problem: Problem, meta: Meta, task: Any) -> Params:
        if not self.new_head(problem):
            return meta.model
        tasks = supervised(problem, "algo=pretrain")
        head = {name: p for name, p in meta.model.items() if name.startswith("head.")}
        return meta.model | {name: p.new_zeros(tasks.outputs, *p.shape[1:]) for name, p in head.items()}

    def step_size(self, meta: Meta, name: str, k: int) -> Tensor | float:
        return meta.step_sizes[RATE]

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        grads, (_, metrics) = grad_and_value(lambda meta: problem.whole_loss(meta.model, task), has_aux=True)(meta)
        return grads, metrics
