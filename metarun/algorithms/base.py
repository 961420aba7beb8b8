"""What a meta-learning method has to say: how a task adapts, and the meta-gradient of one task."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarun.episode import Episode
from metarun.errors import require
from metarun.hypergrad import Metrics
from metarun.inner import Inner, descend
from metarun.losses import Objective, Reduction
from metarun.outer import OuterOptimizer, Schedule
from metarun.tree import Params


@dataclass(kw_only=True, slots=True)
class Algorithm(abc.ABC):
    """A method and its settings. Subclasses implement ``inner`` and ``meta_grad`` for a single task.

    The training loop, evaluation, checkpoints and reports know no more of a method than this class.
    """

    fewest_inner_steps: ClassVar[int] = 1  # with which meta-training means something
    inner_lr: float
    inner_steps: int  # while meta-training
    eval_inner_steps: int  # while validating and testing; results are reported for 0..this many
    inner_loss: Reduction
    outer_optimizer: OuterOptimizer
    outer_lr: float
    outer_eps: float  # outer Adam's epsilon
    outer_schedule: Schedule
    clip_value: float | None  # bound on each entry of the meta-gradient; null: none
    clip_norm: float | None  # bound on the meta-gradient's global norm; null: none

    def __post_init__(self) -> None:
        require(self.inner_lr > 0, "inner_lr", self.inner_lr, "> 0")
        fewest = self.fewest_inner_steps
        require(self.inner_steps >= fewest, "inner_steps", self.inner_steps, f">= {fewest}")
        require(self.eval_inner_steps >= 1, "eval_inner_steps", self.eval_inner_steps, ">= 1")
        require(self.outer_lr > 0, "outer_lr", self.outer_lr, "> 0")
        require(self.outer_eps > 0, "outer_eps", self.outer_eps, "> 0")
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "> 0, or null for none")

    def training_shots(self, shot: int, query: int) -> tuple[int, int]:
        """(support, query) examples per class that a meta-training task needs."""
        return shot, query

    def init(self, params: Params) -> Params:
        """The first meta-parameters, from a freshly initialised model's parameters.

        Entries whose name starts with ``inner.`` belong to the method, the others to the model.
        """
        return params

    @abc.abstractmethod
    def inner(self, objective: Objective, x: Tensor, y: Tensor, key: Tensor, *, training: bool) -> Inner:
        """The inner loop of one task with support set x [N*K, ...], y [N*K] and random key (int64 scalar)."""

    @abc.abstractmethod
    def meta_grad(self, objective: Objective, meta: Params, task: Episode) -> tuple[Params, Metrics]:
        """The meta-gradient of one task (an Episode without its axis T), like ``meta``, and scalar metrics."""

    def adapt(
        self, objective: Objective, meta: Params, x: Tensor, y: Tensor, key: Tensor, steps: int
    ) -> Iterator[Params]:
        """A task's full model parameters after 0, 1, ..., ``steps`` inner steps, as evaluation runs them."""
        fixed = model_params(meta)
        for carry in descend(self.inner(objective, x, y, key, training=False), meta, steps):
            yield {**fixed, **carry.params}


def model_params(meta: Params) -> Params:
    """The entries of the meta-parameters that are the model's."""
    return {name: value for name, value in meta.items() if not name.startswith("inner.")}
