"""The outer step: clips the meta-gradient, follows a schedule, and moves the meta-parameters."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.meta import Meta
from metarun.errors import require


class OuterOptimizer(enum.Enum):
    """torch's Adam with its usual betas, or SGD without momentum."""

    adam = "adam"
    sgd = "sgd"


class Schedule(enum.Enum):
    """How the outer learning rate goes from its first value to 0: not at all, on half a cosine, on a line."""

    none = "none"
    cosine = "cosine"
    linear = "linear"

    def factor(self, progress: float) -> float:
        """Share of the first learning rate that is left at ``progress`` (0..1) of the run."""
        if self is Schedule.cosine:
            return (1 + math.cos(math.pi * progress)) / 2
        return 1 - progress if self is Schedule.linear else 1.0


@dataclass(kw_only=True, slots=True)
class OuterSettings:
    """The settings of the outer step, which every method has; the keys are ``algo.outer_*`` and ``algo.clip_*``."""

    outer_optimizer: OuterOptimizer
    outer_lr: float
    outer_eps: float  # outer Adam's epsilon
    outer_schedule: Schedule
    clip_value: float | None  # bound on each entry of the meta-gradient; null: none
    clip_norm: float | None  # bound on the meta-gradient's global norm; null: none

    def __post_init__(self) -> None:
        require(self.outer_lr > 0, "outer_lr", self.outer_lr, "> 0")
        require(self.outer_eps > 0, "outer_eps", self.outer_eps, "> 0")
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "> 0, or null for none")

    def unread(self) -> dict[str, str]:
        """Fields that nothing reads, as the other fields stand -> what would read them."""
        return {} if self.outer_optimizer is OuterOptimizer.adam else {"outer_eps": "algo.outer_optimizer=adam"}

    def is_proportional(self) -> bool:
        """Whether the step is the meta-gradient times a number."""
        return self.outer_optimizer is OuterOptimizer.sgd and self.clip_value is None and self.clip_norm is None

    def moments(self) -> int:
        """How many numbers the outer optimiser keeps for each parameter."""
        return 2 if self.outer_optimizer is OuterOptimizer.adam else 0

    def outer_step(self, meta: Meta) -> OuterStep:
        """What moves these meta-parameters, in place."""
        return OuterStep(self, meta)


class OuterStep:
    """Moves meta-parameters in place. The learning rate is a function of progress, so its only state is torch's."""

    def __init__(self, settings: OuterSettings, meta: Meta):
        self.settings, self.leaves = settings, list(tree.leaves(meta))
        self.lr_now = settings.outer_lr  # of the latest step
        if settings.outer_optimizer is OuterOptimizer.adam:
            adam = torch.optim.Adam(self.leaves, lr=settings.outer_lr, eps=settings.outer_eps, fused=True)
            self.optimizer: torch.optim.Optimizer = adam
        else:
            self.optimizer = torch.optim.SGD(self.leaves, lr=settings.outer_lr, fused=True)

    def step(self, grads: Meta, progress: float) -> Tensor:
        """One step along the clipped meta-gradient; returns the norm that it had before clipping (scalar tensor)."""
        settings, total_norm = self.settings, torch.nn.utils.get_total_norm
        norm = total_norm(list(tree.leaves(grads)))
        if settings.clip_value is not None:
            bound = settings.clip_value
            grads = tree.combine(lambda g: g.clamp(-bound, bound), grads)
        if settings.clip_norm is not None:
            clipped = total_norm(list(tree.leaves(grads))).clamp(min=1e-12)
            grads = tree.scale((settings.clip_norm / clipped).clamp(max=1.0), grads)
        for parameter, grad in zip(self.leaves, tree.leaves(grads), strict=True):
            parameter.grad = grad
        self.lr_now = settings.outer_lr * settings.outer_schedule.factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_now
        self.optimizer.step()
        return norm
