"""The outer step: clip the meta-gradient, follow the learning rate schedule, move the meta-parameters."""

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
    """Optimiser of the outer step: torch's Adam with its default betas, or SGD without momentum."""

    adam = "adam"
    sgd = "sgd"


class Schedule(enum.Enum):
    """Schedule of the outer learning rate.

    Attributes:
        none: constant.
        cosine: half a cosine from the first value to 0.
        linear: a line from the first value to 0.
    """

    none = "none"
    cosine = "cosine"
    linear = "linear"

    def factor(self, progress: float) -> float:
        """Return the learning rate at ``progress`` (0..1) of the run, as a share of the first one."""
        if self is Schedule.cosine:
            return (1 + math.cos(math.pi * progress)) / 2
        return 1 - progress if self is Schedule.linear else 1.0


@dataclass(kw_only=True, slots=True)
class OuterSettings:
    """Settings of the outer step, which every method has; the keys are ``algo.outer_*`` and ``algo.clip_*``.

    Attributes:
        outer_optimizer: Adam or SGD.
        outer_lr: first learning rate.
        outer_eps: epsilon of outer Adam.
        outer_schedule: schedule of the learning rate.
        clip_value: bound on each entry of the meta-gradient; null: none.
        clip_norm: bound on the global norm of the meta-gradient; null: none.
    """

    outer_optimizer: OuterOptimizer
    outer_lr: float
    outer_eps: float
    outer_schedule: Schedule
    clip_value: float | None
    clip_norm: float | None

    def __post_init__(self) -> None:
        require(self.outer_lr > 0, "outer_lr", self.outer_lr, "> 0")
        require(self.outer_eps > 0, "outer_eps", self.outer_eps, "> 0")
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "> 0, or null for none")

    def unread(self) -> dict[str, str]:
        """Map each field that has no effect with these settings to the setting that would use it."""
        return {} if self.outer_optimizer is OuterOptimizer.adam else {"outer_eps": "algo.outer_optimizer=adam"}

    def is_proportional(self) -> bool:
        """Whether the outer step is the meta-gradient times a number."""
        return self.outer_optimizer is OuterOptimizer.sgd and self.clip_value is None and self.clip_norm is None

    def moments(self) -> int:
        """Return how many numbers the outer optimiser keeps for each parameter."""
        return 2 if self.outer_optimizer is OuterOptimizer.adam else 0

    def outer_step(self, meta: Meta) -> OuterStep:
        """Make the optimiser that moves these meta-parameters in place."""
        return OuterStep(self, meta)


class OuterStep:
    """Optimiser that moves meta-parameters in place.

    The learning rate is a function of progress, so the only state is that of torch's optimiser.

    Args:
        settings: the outer step's settings.
        meta: meta-parameters, moved in place.
    """

    def __init__(self, settings: OuterSettings, meta: Meta):
        self.settings, self.leaves = settings, list(tree.leaves(meta))
        self.lr_now = settings.outer_lr  # of the latest step
        if settings.outer_optimizer is OuterOptimizer.adam:
            adam = torch.optim.Adam(self.leaves, lr=settings.outer_lr, eps=settings.outer_eps, fused=True)
            self.optimizer: torch.optim.Optimizer = adam
        else:
            self.optimizer = torch.optim.SGD(self.leaves, lr=settings.outer_lr, fused=True)

    def step(self, grads: Meta, progress: float) -> Tensor:
        """Take one step along the clipped meta-gradient.

        Args:
            grads: meta-gradient, like the meta-parameters.
            progress: share (0..1) of meta-training that is done.

        Returns:
            Norm of the meta-gradient before clipping, a scalar.
        """
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
