"""MAML and its first-order variant: Finn, Abbeel and Levine 2017, "Model-agnostic meta-learning", algorithm 1."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from metarun.algorithms.base import GradientDescent
from metarun.core import tree
from metarun.core.head import BIAS, WEIGHT, Head
from metarun.core.hypergrad import Outer, recompute, store
from metarun.core.inner import Carry, Inner
from metarun.core.meta import Meta
from metarun.core.objective import one_output_a_class
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.errors import UserError, require


class Derivative(enum.Enum):
    """How the query loss is differentiated through the inner steps.

    Attributes:
        store: exactly, with the graph of all steps in memory (hypergrad.py).
        recompute: exactly, with one step's graph in memory (hypergrad.py).
        first_order: inner gradients are constants (FOMAML).
    """

    store = "store"
    recompute = "recompute"
    first_order = "first_order"


@dataclass(kw_only=True, slots=True)
class MAML(GradientDescent):
    """MAML: theta_k+1 = theta_k - inner_lr * grad L_support(theta_k); the outer loop descends L_query(theta_S).

    Without inner steps in training this is pretraining on the query examples of all tasks at once and fine-tuning at
    test: the baseline of the paper's table 2.

    Attributes:
        hypergrad: how the query loss is differentiated.
        segment: for ``recompute``, inner steps between two kept iterates of a longer loop.
        head: the head that a task starts with.
    """

    fewest_inner_steps: ClassVar[int] = 0
    of_training: ClassVar[tuple[str, ...]] = ("hypergrad", "segment")
    hypergrad: Derivative
    segment: int
    head: Head

    def __post_init__(self) -> None:
        GradientDescent.__post_init__(self)
        require(self.segment >= 1, "segment", self.segment, ">= 1")

    def unread(self) -> dict[str, str]:
        kept = {} if self.hypergrad is Derivative.recompute else {"segment": "algo.hypergrad=recompute"}
        return GradientDescent.unread(self) | kept

    def descends_query_loss(self) -> bool:
        return True

    def check_problem(self, problem: Problem, params: Params) -> None:
        GradientDescent.check_problem(self, problem, params)
        if self.head is Head.learned:
            return
        key, value = "algo.head", self.head.value
        one_output_a_class(problem, f"{key}={value}")
        if not all(name in params and params[name].requires_grad for name in (WEIGHT, BIAS)):
            raise UserError(f"model: {key}={value} needs a network whose last layer is linear, called head, not frozen")
        adapts = self.moves(WEIGHT) and self.moves(BIAS)
        require(adapts, "algo.frozen", self.frozen, f"such that the head adapts, which {key}={value} makes for a task")

    def any_way(self, problem: Problem) -> bool:
        return self.head is not Head.learned

    def start(self, problem: Problem, meta: Meta, task: Any) -> Params:
        if self.head is Head.learned:
            return meta.model
        tasks = one_output_a_class(problem, "algo.head")
        return {**meta.model, **self.head.of(tasks, meta.model, task.support_x, task.support_y)}

    def slope(self, loss: Callable[[Params], Tensor], params: Params, fixed: Params) -> Params:
        if self.hypergrad is Derivative.first_order:  # detached, so that no graph of the inner gradient is kept
            params, fixed = tree.detach(params), tree.detach(fixed)
        return GradientDescent.slope(self, loss, params, fixed)

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        def outer(meta: Meta, carry: Carry) -> tuple[Tensor, Metrics]:
            return problem.query_loss({**meta.model, **carry.params}, task)

        return self.differentiate(self.inner(problem, task, training=True), outer, meta)

    def differentiate(self, inner: Inner, outer: Outer, meta: Meta) -> tuple[Meta, Metrics]:
        """Differentiate the query loss ``outer`` through the inner loop, as set by ``hypergrad``."""
        if self.hypergrad is Derivative.recompute:
            return recompute(inner, outer, meta, self.inner_steps, self.segment)
        return store(inner, outer, meta, self.inner_steps)
