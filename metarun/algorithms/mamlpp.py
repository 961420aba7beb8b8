"""MAML++: Antoniou, Edwards and Storkey 2019, "How to train your MAML", sections 4 and 5."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm, named, require_patterns
from metarun.algorithms.maml import MAML, Derivative
from metarun.core.inner import Carry
from metarun.core.meta import Meta
from metarun.core.problem import Metrics, Problem, require_given_data
from metarun.core.tree import Params
from metarun.errors import require

LEAST = 0.03  # the weight of an earlier step's loss falls to this share of its first value


@dataclass(kw_only=True, slots=True)
class MAMLpp(MAML):
    """MAML with the changes of MAML++, one setting for each; its cosine schedule is ``outer_schedule``.

    Multi-step loss: sum_k v_k L_query(theta_k) over the inner steps k = 1..S, with v_k = 1/S at first; during training
    the weight moves to the last step. The ensemble of the paper's results is a setting of the test (``eval.ensemble``).

    Attributes:
        learned_rates: whether to meta-learn a step size for each parameter tensor and inner step.
        multi_step: first weight of the query loss after each earlier inner step, as a share (0..1) of 1/S.
        multi_step_until: share of meta-training during which that weight falls; it is 0 afterwards.
        first_order_until: share of meta-training that runs with inner gradients as constants.
        per_step: fnmatch patterns, as for ``frozen``, of parameters that are meta-learned for each inner step apart and
            do not adapt: in the paper the scale and shift of batch norm. After k steps the query set meets the values
            of step k-1, as in the published code.
    """

    fewest_inner_steps: ClassVar[int] = 1
    of_training: ClassVar[tuple[str, ...]] = ("multi_step", "multi_step_until", "first_order_until")
    learned_rates: bool
    multi_step: float
    multi_step_until: float
    first_order_until: float
    per_step: list[str]

    def __post_init__(self) -> None:
        MAML.__post_init__(self)
        for name in ("multi_step", "multi_step_until", "first_order_until"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0..1")

    def unread(self) -> dict[str, str]:
        return MAML.unread(self) | ({} if self.multi_step > 0 else {"multi_step_until": "algo.multi_step > 0"})

    def depends_on_length(self) -> list[str]:
        falls = self.multi_step > 0 and self.multi_step_until > 0
        first = self.first_order_until > 0 and self.hypergrad is not Derivative.first_order
        own = {"algo.multi_step_until": falls, "algo.first_order_until": first}
        return [*MAML.depends_on_length(self), *(key for key, follows in own.items() if follows)]

    def at(self, progress: float) -> Algorithm:
        return dataclasses.replace(
            self,
            hypergrad=Derivative.first_order if progress < self.first_order_until else self.hypergrad,
            multi_step=self.multi_step if progress < self.multi_step_until else 0.0,
        )

    def early_weight(self, progress: Tensor) -> Tensor:
        """Compute the weight of the query loss after each earlier inner step, a scalar."""
        left = 1 - progress / self.multi_step_until if self.multi_step_until > 0 else torch.ones_like(progress)
        return self.multi_step / self.inner_steps * left.clamp(min=LEAST)

    def init(self, params: Params) -> Meta:
        require_patterns("algo.per_step", self.per_step, params)
        some = not self.per_step or any(map(self.moves, params))
        require(some, "algo.per_step", self.per_step, "such that a parameter is left to adapt")
        MAML.init(self, params)
        moving = {name: p for name, p in params.items() if self.moves(name)} if self.learned_rates else {}
        sizes = {name: p.new_full((self.inner_steps,), self.inner_lr) for name, p in moving.items()}
        more = self.inner_steps - 1
        apart = {name: p for name, p in params.items() if more and named(self.per_step, name)}
        later = {name: p.detach().expand(more, *p.shape).clone() for name, p in apart.items()}
        return Meta.of(params, step_sizes=sizes, later=later)

    def moves(self, name: str) -> bool:
        return MAML.moves(self, name) and not named(self.per_step, name)

    def check_problem(self, problem: Problem, params: Params) -> None:
        MAML.check_problem(self, problem, params)
        require_given_data(problem, "algo=mamlpp", "its loss after every step needs query data for each")

    def step_size(self, meta: Meta, name: str, k: int) -> Tensor | float:
        """Return the step size; steps beyond the number of training steps use the last one."""
        return meta.step_sizes[name][min(k, self.inner_steps - 1)] if self.learned_rates else self.inner_lr

    def model_in(self, meta: Meta, k: int) -> Params:
        """Return the model's parameters in inner step k; steps beyond those of training use the last one's."""
        last = min(k, self.inner_steps - 1)
        return {**meta.model, **{name: rows[last - 1] for name, rows in meta.later.items()}} if last else meta.model

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        inner = self.inner(problem, task, training=True)
        zero = next(iter(meta.model.values())).new_zeros(())
        early = self.early_weight(progress).to(zero)

        def query_loss(meta: Meta, carry: Carry, k: int) -> tuple[Tensor, Metrics]:
            return problem.query_loss({**self.model_in(meta, k), **carry.params}, task)

        def start(meta: Meta) -> Carry:
            return inner.start(meta)._replace(state={"loss": zero})

        def step(meta: Meta, carry: Carry, k: int) -> Carry:
            """Take an inner step and add the query loss after it to the carry, so that every hypergradient works."""
            after, loss = inner.step(meta, carry, k), carry.state["loss"]
            if self.multi_step > 0 and k + 1 < self.inner_steps:
                loss = loss + early * query_loss(meta, after, k)[0]
            return after._replace(state={"loss": loss})

        def outer(meta: Meta, carry: Carry) -> tuple[Tensor, Metrics]:
            last, metrics = query_loss(meta, carry, self.inner_steps - 1)
            weight = 1 - (self.inner_steps - 1) * early if self.multi_step > 0 else 1.0
            return carry.state["loss"] + weight * last, metrics

        return self.differentiate(inner._replace(start=start, step=step), outer, meta)
