"""Returns, the linear baseline and advantages of trajectories, as in the code published with the MAML paper (rllab).

Shapes, besides those of episode.py: M trajectories of H steps; O numbers in an observation. ``valid`` is 1 up to the
move that ended an episode and 0 behind it. Rows that are not valid count nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-5
BOUND = 10.0  # of observations, as features


def discounted(rewards: Tensor, factor: float) -> Tensor:
    """Sum the rewards from each step on, each step later by ``factor`` less; rewards and result [..., H]."""
    total, sums = torch.zeros_like(rewards[..., 0]), []
    for reward in reversed(rewards.unbind(-1)):
        total = reward + factor * total
        sums.append(total)
    return torch.stack(sums[::-1], -1)


def features(observations: Tensor) -> Tensor:
    """Make the baseline's features (o, o^2, t/100, (t/100)^2, (t/100)^3, 1).

    Args:
        observations: [..., H, O].

    Returns:
        [..., H, 2 O + 4] float64.
    """
    o = observations.to(torch.float64).clamp(-BOUND, BOUND)
    t = torch.arange(o.shape[-2], dtype=o.dtype, device=o.device)[:, None] / 100
    time = torch.cat([t, t**2, t**3, torch.ones_like(t)], -1).expand(*o.shape[:-1], 4)
    return torch.cat([o, o**2, time], -1)


def fitted_values(observations: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Fit the linear baseline to ``targets`` and return its values for the same observations.

    Each task has its own fit: least squares with a ridge, in float64, since squares of observations next to a small
    ridge leave nothing of float32.

    Args:
        observations: [T, M, H, O].
        targets: [T, M, H] discounted returns.
        valid: [T, M, H].

    Returns:
        [T, M, H] float64, 0 in rows that are not valid.
    """
    rows = (features(observations) * valid[..., None]).flatten(1, 2)  # [T, M*H, F]
    gram = rows.mT @ rows
    right = rows.mT @ (targets.to(rows.dtype) * valid).flatten(1, 2)[..., None]
    unit = torch.eye(gram.shape[-1], dtype=rows.dtype, device=rows.device)
    weights = torch.linalg.solve_ex(gram + RIDGE * unit, right).result
    return (rows @ weights)[..., 0].unflatten(1, valid.shape[1:])


def advantages(rewards: Tensor, values: Tensor, valid: Tensor, discount: float, gae: float) -> Tensor:
    """Estimate how much better each action was than the baseline: sum of (discount * gae)^i of the later errors.

    The value behind the last step of an episode is 0, whether the goal or the horizon ended it.

    Args:
        rewards: [T, M, H], 0 where not valid.
        values: [T, M, H] baseline, 0 where not valid.
        valid: [T, M, H].
        discount: gamma, 0..1.
        gae: lambda, 0..1; 1: return minus baseline.

    Returns:
        [T, M, H], like ``values``; 0 where not valid.

    Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation",
    equation 16.
    """
    later = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
    errors = (rewards.to(values.dtype) + discount * later - values) * valid
    return discounted(errors, discount * gae) * valid


def standardised(values: Tensor, valid: Tensor) -> Tensor:
    """Shift and scale the valid values of each task to mean 0 and standard deviation 1.

    Args:
        values: [T, M, H].
        valid: [T, M, H].

    Returns:
        [T, M, H]; 0 where not valid.
    """
    count = valid.sum((1, 2), keepdim=True)
    mean = (values * valid).sum((1, 2), keepdim=True) / count
    variance = ((values - mean).square() * valid).sum((1, 2), keepdim=True) / count
    return (values - mean) / (variance.sqrt() + 1e-8) * valid


def explained(values: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Share of the variance of ``targets`` over each task's valid rows that ``values`` explain, [T]; at most 1."""
    count = valid.sum((1, 2), keepdim=True)

    def variance(of: Tensor) -> Tensor:
        mean = (of * valid).sum((1, 2), keepdim=True) / count
        return ((of - mean).square() * valid).sum((1, 2))

    targets = targets.to(values.dtype)
    return 1 - variance(targets - values) / (variance(targets) + 1e-8)
