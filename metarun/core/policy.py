"""Gaussian policies: what a network's outputs say about actions.

A policy network maps observations [B, O] to outputs [B, 2A]: the mean of each action, then the logarithm of its
standard deviation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOWEST_LOG_STD = math.log(1e-6)


def moments(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split outputs [..., 2A] into (mean, log standard deviation), each [..., A].

    The log standard deviation has a floor of log(1e-6), below which it has no gradient.
    """
    mean, log_std = outputs.chunk(2, -1)
    return mean, log_std.clamp(min=LOWEST_LOG_STD)


def act(outputs: Tensor, noise: Tensor) -> Tensor:
    """Turn standard normal noise [..., A] into actions of the policies with these outputs [..., 2A]."""
    mean, log_std = moments(outputs)
    return mean + log_std.exp() * noise


def log_probability(outputs: Tensor, action: Tensor) -> Tensor:
    """Compute log pi(action), [...], for outputs [..., 2A] and actions [..., A]."""
    mean, log_std = moments(outputs)
    standard = (action - mean) * (-log_std).exp()
    return -(standard.square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1)


def divergence(before: Tensor, now: Tensor) -> Tensor:
    """Compute KL(before || now), [...], of two policies' outputs, each [..., 2A]."""
    mean, log_std = moments(now)
    old_mean, old_log_std = moments(before)
    ratio = (2 * (old_log_std - log_std)).exp()  # of variances; subtracted before exp, so that equal ones give 1
    shift = (old_mean - mean) * (-log_std).exp()
    return ((ratio + shift.square() - 1) / 2 + log_std - old_log_std).sum(-1)


def curvature(outputs: Tensor) -> Tensor:
    """Compute the second derivative of the divergence with respect to ``now``, where both policies are equal.

    It is diagonal: 1 / sigma^2 for a mean, 2 for a log standard deviation (0 below its floor, where the divergence does
    not depend on it).

    Args:
        outputs: [..., 2A].

    Returns:
        The diagonal, [..., 2A].
    """
    _, raw = outputs.chunk(2, -1)
    _, log_std = moments(outputs)
    return torch.cat([(-2 * log_std).exp(), torch.where(raw >= LOWEST_LOG_STD, 2.0, 0.0).to(outputs)], -1)
