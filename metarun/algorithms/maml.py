"""MAML and its first-order variant: Finn, Abbeel and Levine 2017, "Model-agnostic meta-learning", algorithm 1."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor

from metarun import hypergrad
from metarun.algorithms.base import Algorithm, model_params
from metarun.episode import Episode
from metarun.errors import require
from metarun.hypergrad import Metrics
from metarun.inner import SGD, Carry, Inner
from metarun.losses import Objective
from metarun.tree import Params


class Derivative(enum.Enum):
    """How the query loss is differentiated through the inner steps; the names are those of ``hypergrad.py``."""

    store = "store"
    recompute = "recompute"
    first_order = "first_order"


@dataclass(kw_only=True, slots=True)
class MAML(Algorithm):
    """theta_k+1 = theta_k - inner_lr * grad L_support(theta_k); descend L_query(theta_S) in theta_0.

    With no inner steps while training this is pretraining on all tasks' query examples at once, and fine-tuning at
    test: the baseline of the paper's table 2.
    """

    fewest_inner_steps: ClassVar[int] = 0
    hypergrad: Derivative
    frozen: list[str]  # parameters that the inner loop leaves alone, as shell patterns of their names

    def init(self, params: Params) -> Params:
        for pattern in self.frozen:
            known = any(fnmatchcase(name, pattern) for name in params)
            require(known, "algo.frozen", pattern, f"a pattern of parameter names: {', '.join(params)}")
        return params

    def inner(self, objective: Objective, x: Tensor, y: Tensor, key: Tensor, *, training: bool) -> Inner:
        sgd = SGD(lr=self.inner_lr)

        def start(meta: Params) -> Carry:
            params = model_params(meta)
            return Carry({n: p for n, p in params.items() if not any(fnmatchcase(n, f) for f in self.frozen)}, {})

        def step(meta: Params, carry: Carry, k: int) -> Carry:
            fixed = model_params(meta)

            def loss(params: Params) -> Tensor:
                return objective.inner_loss({**fixed, **params}, x, y, self.inner_loss)

            return sgd.update(carry, torch.func.grad(loss)(carry.params))

        return Inner(start, step)

    def meta_grad(self, objective: Objective, meta: Params, task: Episode) -> tuple[Params, Metrics]:
        def outer(meta: Params, carry: Carry) -> tuple[Tensor, Metrics]:
            return objective.query_loss({**model_params(meta), **carry.params}, task.query_x, task.query_y)

        inner = self.inner(objective, task.support_x, task.support_y, task.key, training=True)
        derivative = getattr(hypergrad, self.hypergrad.value)
        return derivative(inner, outer, meta, self.inner_steps)
