"""The outer step: what moves the meta-parameters, and what it may ask about the meta-batch."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.meta import Meta

if TYPE_CHECKING:
    from metarun.core.outer import OuterSettings

Facts = dict[str, Tensor]  # name -> scalar, for the log


class Trial(NamedTuple):
    """Meta-parameters judged on the experience of one meta-batch.

    Attributes:
        loss: mean over tasks of the query loss after the inner steps, a scalar.
        kl: mean over all valid rows of all tasks of KL(policy that collected || policy now), a scalar.
    """

    loss: Tensor
    kl: Tensor


class MetaBatch(abc.ABC):
    """One meta-batch with the data that were collected for it, as outer steps ask about it.

    The data stay while meta-parameters change: each answer adapts anew, from the meta-parameters that it is asked for.
    With several ranks, all get the same bits and must ask in the same order.
    """

    @abc.abstractmethod
    def trial(self, meta: Meta) -> Trial:
        """Judge meta-parameters."""

    @abc.abstractmethod
    def fisher(self, meta: Meta) -> Callable[[Meta], Meta]:
        """Return v -> F v, F the second derivative of the mean KL at the meta-parameters that collected the data."""

    @abc.abstractmethod
    def slope(self, meta: Meta) -> Meta:
        """Differentiate the mean KL of ``trial``."""

    @abc.abstractmethod
    def gradient(self, meta: Meta) -> tuple[Meta, Tensor]:
        """Differentiate the mean query loss with clipped ratios, and the penalty, as ``algo.promp`` states them.

        Returns:
            (gradient like ``meta``, share of the query rows whose ratio is clipped, a scalar).
        """


class Nothing(MetaBatch):
    """A meta-batch without tasks: every loss, divergence and gradient is 0."""

    def trial(self, meta: Meta) -> Trial:
        zero = next(tree.leaves(meta)).new_zeros(())
        return Trial(zero, zero)

    def fisher(self, meta: Meta) -> Callable[[Meta], Meta]:
        return tree.zeros_like

    def slope(self, meta: Meta) -> Meta:
        return tree.zeros_like(meta)

    def gradient(self, meta: Meta) -> tuple[Meta, Tensor]:
        return tree.zeros_like(meta), next(tree.leaves(meta)).new_zeros(())


class OuterStep(abc.ABC):
    """A rule that moves meta-parameters in place."""

    @abc.abstractmethod
    def step(self, grads: Meta, progress: float, batch: MetaBatch) -> Facts:
        """Take one step.

        Args:
            grads: meta-gradient, like the meta-parameters.
            progress: share (0..1) of meta-training that is done.
            batch: the meta-batch, for rules that ask more than the gradient.

        Returns:
            ``grad_norm``, the norm of the meta-gradient before clipping, and what else the rule tells of itself.
        """

    def rates(self) -> dict[str, float]:
        """Return ``lr``, the learning rate of the latest step; empty where the rule has none."""
        return {}

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what the rule remembers from step to step, as torch's optimisers do; empty: nothing."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that ``state_dict`` returned."""


class Descent(OuterStep):
    """torch's Adam or SGD along the clipped meta-gradient, with a schedule of the learning rate.

    The learning rate is a function of progress, so the only state is that of torch's optimiser.

    Args:
        settings: the outer step's settings.
        meta: meta-parameters, moved in place.
        adam: whether to use Adam.
    """

    def __init__(self, settings: OuterSettings, meta: Meta, adam: bool):
        self.settings, self.leaves = settings, list(tree.leaves(meta))
        self.lr = settings.outer_lr  # of the latest step
        if adam:
            made = torch.optim.Adam(self.leaves, lr=settings.outer_lr, eps=settings.outer_eps, fused=True)
            self.optimizer: torch.optim.Optimizer = made
        else:
            self.optimizer = torch.optim.SGD(self.leaves, lr=settings.outer_lr, fused=True)

    def step(self, grads: Meta, progress: float, batch: MetaBatch) -> Facts:
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
        self.lr = settings.outer_lr * settings.outer_schedule.factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.step()
        return {"grad_norm": norm}

    def rates(self) -> dict[str, float]:
        return {"lr": self.lr}

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
