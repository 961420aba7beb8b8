"""Prototypical networks: Snell, Swersky and Zemel 2017, "Prototypical networks for few-shot learning", section 2.2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm, model_params
from metarun.core.episode import Episode
from metarun.core.hypergrad import Metrics, store
from metarun.core.inner import Carry, Inner
from metarun.core.objective import Objective
from metarun.core.tree import Params
from metarun.errors import UserError


@dataclass(kw_only=True, slots=True)
class ProtoNet(Algorithm):
    """Logits -|f(x) - c_n|^2, c_n the mean embedding of class n's support examples; nothing is adapted by gradients.

    With the network's head in the place of the distance: since |f(x)|^2 is the same for every class, the logits are
    those of a linear head with weights 2 c_n and biases -|c_n|^2. So one inner step puts that head on the network, and
    further ones leave it; before the first it is zero.
    """

    def init(self, params: Params) -> Params:
        if "head.weight" not in params or "head.bias" not in params:
            raise UserError(
                "model: algo=protonet needs a network whose last layer is linear, called head and not frozen"
            )
        return params

    def inner(self, objective: Objective, x: Tensor, y: Tensor, key: Tensor, *, training: bool) -> Inner:
        way = objective.outputs
        if way < 2:
            raise UserError("dataset: algo=protonet needs tasks with one output for each class")

        def start(meta: Params) -> Carry:
            width = meta["head.weight"].shape[1]
            return Carry({"head.weight": x.new_zeros(way, width), "head.bias": x.new_zeros(way)}, {})

        def step(meta: Params, carry: Carry, k: int) -> Carry:
            if k > 0:
                return carry
            width = meta["head.weight"].shape[1]
            bare = {"head.weight": torch.eye(width, dtype=x.dtype, device=x.device), "head.bias": x.new_zeros(width)}
            embedded = objective.forward({**model_params(meta), **bare}, x)  # [N*K, width]
            members = (y == torch.arange(way, device=y.device)[:, None]).to(x.dtype)  # [N, N*K]
            centres = members @ embedded / members.sum(1, keepdim=True)
            return Carry({"head.weight": 2 * centres, "head.bias": -centres.square().sum(1)}, {})

        return Inner(start, step)

    def meta_grad(self, objective: Objective, meta: Params, task: Episode) -> tuple[Params, Metrics]:
        def outer(meta: Params, carry: Carry) -> tuple[Tensor, Metrics]:
            return objective.query_loss({**model_params(meta), **carry.params}, task.query_x, task.query_y)

        inner = self.inner(objective, task.support_x, task.support_y, task.key, training=True)
        return store(inner, outer, meta, self.inner_steps)
