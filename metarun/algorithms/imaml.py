"""iMAML: Rajeswaran, Finn, Kakade and Levine 2019, "Meta-learning with implicit gradients", algorithms 1 and 2."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.algorithms.base import GradientBased
from metarun.core import tree
from metarun.core.hypergrad import implicit
from metarun.core.inner import SGD, Carry, Inner
from metarun.core.meta import Meta
from metarun.core.problem import Metrics, Problem, require_given_data
from metarun.core.tree import Params
from metarun.errors import require, require_count


class Descent(enum.Enum):
    """How the inner loop uses the proximal term.

    Attributes:
        joint: every step descends support loss plus proximal term (equation 3), at test too.
        afterwards: every step descends the support loss alone; in training one more step follows on the proximal term
            alone, as in the published code.
    """

    joint = "joint"
    afterwards = "afterwards"


@dataclass(kw_only=True, slots=True)
class IMAML(GradientBased):
    """Implicit MAML: the meta-gradient depends on the solution of the inner problem, not on the path to it.

    The inner loop descends L_support(phi) + proximal/2 |phi - theta|^2 (equation 3). The meta-gradient is
    (I + H/proximal)^-1 times the query gradient (equation 6). With batch norm and few images H has eigenvalues far
    below -proximal, so that the system is indefinite. The published code solves
    ((1 + cg_damping) I + H / (proximal + lam_damping)) g = query gradient instead; with both dampings 0 this is the
    paper's equation.

    Attributes:
        proximal: strength of the proximal term, lambda in the paper.
        descent: how the inner loop uses the proximal term.
        cg_steps: conjugate gradient iterations.
        cg_damping: added to the identity.
        lam_damping: added to ``proximal`` in the system.
    """

    of_training: ClassVar[tuple[str, ...]] = ("cg_steps", "cg_damping", "lam_damping")
    proximal: float
    descent: Descent
    cg_steps: int
    cg_damping: float
    lam_damping: float

    def __post_init__(self) -> None:
        GradientBased.__post_init__(self)
        require(self.proximal > 0, "proximal", self.proximal, "> 0")
        require_count("cg_steps", self.cg_steps, most=1000)
        for name in ("cg_damping", "lam_damping"):
            require(getattr(self, name) >= 0, name, getattr(self, name), ">= 0")

    def check_problem(self, problem: Problem, params: Params) -> None:
        require_given_data(problem, "algo=imaml", "its optimum is that of fixed data")

    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        sgd, seen = SGD(lr=self.inner_lr), self.seen(problem, training)

        def step(meta: Meta, carry: Carry, k: int) -> Carry:
            grads = torch.func.grad(lambda p: seen.support_loss(p, task, k))(carry.params)
            if self.descent is Descent.joint:
                pull = tree.subtract(carry.params, meta.model)
                return sgd.update(carry, tree.add_scaled(grads, self.proximal, pull))
            carry = sgd.update(carry, grads)
            if not training or k + 1 < self.inner_steps:
                return carry
            pull = tree.subtract(carry.params, meta.model)
            return sgd.update(carry, tree.scale(self.proximal, pull))

        return Inner(lambda meta: Carry(meta.model, {}), step)

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        def support_loss(params: Params) -> Tensor:
            return self.seen(problem, True).support_loss(params, task, self.inner_steps)

        grads, metrics = implicit(
            self.inner(problem, task, training=True),
            lambda meta, carry: problem.query_loss(carry.params, task),
            meta,
            self.inner_steps,
            support_loss=support_loss,
            proximal=self.proximal + self.lam_damping,
            damping=self.cg_damping,
            cg_steps=self.cg_steps,
        )
        return Meta.of(grads), metrics
