"""The meta-optimiser: clips the meta-gradient, follows a schedule, and moves the meta-parameters."""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.tree import Params


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


class MetaOptimizer:
    """Moves ``meta`` in place. The learning rate is a function of progress, so its only state is torch's."""

    def __init__(
        self,
        meta: Params,
        optimizer: OuterOptimizer,
        lr: float,
        eps: float,
        schedule: Schedule,
        clip_value: float | None,
        clip_norm: float | None,
    ):
        self.meta, self.lr, self.schedule = meta, lr, schedule
        self.lr_now = lr  # of the latest step
        self.clip_value, self.clip_norm = clip_value, clip_norm
        if optimizer is OuterOptimizer.adam:
            self.torch: torch.optim.Optimizer = torch.optim.Adam(list(meta.values()), lr=lr, eps=eps, fused=True)
        else:
            self.torch = torch.optim.SGD(list(meta.values()), lr=lr, fused=True)

    def step(self, grads: Params, progress: float) -> Tensor:
        """One step along the clipped meta-gradient; returns the norm that it had before clipping (scalar tensor)."""
        norm = torch.nn.utils.get_total_norm(list(grads.values()))
        if self.clip_value is not None:
            bound = self.clip_value
            grads = tree.combine(lambda g: g.clamp(-bound, bound), grads)
        if self.clip_norm is not None:
            grads = tree.scale(
                (self.clip_norm / torch.nn.utils.get_total_norm(list(grads.values())).clamp(min=1e-12)).clamp(max=1.0),
                grads,
            )
        for name, parameter in self.meta.items():
            parameter.grad = grads[name]
        for group in self.torch.param_groups:
            group["lr"] = self.lr_now = self.lr * self.schedule.factor(progress)
        self.torch.step()
        return norm
