"""Transfer learning: ordinary supervised training on the meta-training data, then fine-tuning on each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import grad_and_value

from metarun.algorithms.base import STEP_SIZES, GradientDescent, model_params
from metarun.core.episode import Episode, View
from metarun.core.hypergrad import Metrics
from metarun.core.objective import Objective
from metarun.core.tree import Params
from metarun.errors import UserError, require

RATE = STEP_SIZES + "all"  # the meta-parameter that is the step size of fine-tuning


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

    def init(self, params: Params) -> Params:
        if self.view is View.pooled and "head.weight" not in params:
            raise UserError(
                "model: algo=pretrain puts a new head on the network, whose last layer must be called head, not frozen"
            )
        adapts = self.view is not View.pooled or self.moves("head.weight")
        require(adapts, "algo.frozen", self.frozen, "such that the head, new to a task's classes, is left to adapt")
        like = next(iter(params.values()))
        return GradientDescent.init(self, params) | {RATE: like.new_tensor(self.inner_lr)}

    def candidates(self, meta: Params) -> list[Params]:
        return [{**meta, RATE: torch.full_like(meta[RATE], rate)} for rate in self.rates]

    def start(self, objective: Objective, meta: Params) -> Params:
        params = model_params(meta)
        if self.view is not View.pooled or objective.fixed_labels:
            return params
        head = {name: p for name, p in params.items() if name.startswith("head.")}
        return params | {name: p.new_zeros(objective.outputs, *p.shape[1:]) for name, p in head.items()}

    def step_size(self, meta: Params, name: str, k: int) -> Tensor | float:
        return meta[RATE]

    def meta_grad(self, objective: Objective, meta: Params, task: Episode) -> tuple[Params, Metrics]:
        x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        grads, (_, metrics) = grad_and_value(lambda meta: objective.query_loss(model_params(meta), x, y), has_aux=True)(
            meta
        )
        return grads, metrics
