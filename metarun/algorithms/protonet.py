"""Prototypical networks: Snell, Swersky and Zemel 2017, "Prototypical networks for few-shot learning", section 2.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from metarun.algorithms.base import Algorithm
from metarun.core import head
from metarun.core.hypergrad import store
from metarun.core.inner import Carry, Inner
from metarun.core.meta import Meta
from metarun.core.objective import one_output_a_class
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.errors import UserError


@dataclass(kw_only=True, slots=True)
class ProtoNet(Algorithm):
    """Classify by the nearest class mean in the embedding; nothing adapts by gradients.

    The logits are -|f(x) - c_n|^2, with c_n the mean embedding of class n's support examples. Since |f(x)|^2 is the
    same for every class, a linear head with weights 2 c_n and biases -|c_n|^2 gives the same probabilities. The first
    inner step puts this head on the network, further steps do nothing; before the first step the head is zero.
    """

    fixed: ClassVar[tuple[str, ...]] = ("algo.inner_steps",)

    def __post_init__(self) -> None:
        Algorithm.__post_init__(self)
        self.inner_steps = 1  # a data set's preset is for methods with gradient steps

    def init(self, params: Params) -> Meta:
        if "head.weight" not in params or "head.bias" not in params:
            raise UserError(
                "model: algo=protonet needs a network whose last layer is linear, called head and not frozen"
            )
        return Meta.of(params)

    def check_problem(self, problem: Problem, params: Params) -> None:
        one_output_a_class(problem, "algo=protonet")

    def any_way(self, problem: Problem) -> bool:
        return True

    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        tasks = one_output_a_class(problem, "algo=protonet")

        def start(meta: Meta) -> Carry:
            return Carry(head.zero(tasks, meta.model), {})

        def step(meta: Meta, carry: Carry, k: int) -> Carry:
            made = head.prototypes(tasks, meta.model, task.support_x, task.support_y) if k == 0 else carry.params
            return Carry(made, {})

        return Inner(start, step)

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        def outer(meta: Meta, carry: Carry) -> tuple[Tensor, Metrics]:
            return problem.query_loss({**meta.model, **carry.params}, task)

        return store(self.inner(problem, task, training=True), outer, meta, self.inner_steps)
