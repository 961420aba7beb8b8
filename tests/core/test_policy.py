"""Gaussian policies against torch.distributions."""

from __future__ import annotations

import math

import torch
from torch.distributions import Normal, kl_divergence

from metarun.core import policy


def outputs(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(of: torch.Tensor) -> Normal:
    mean, log_std = of.chunk(2, -1)
    return Normal(mean, log_std.exp())


def test_log_probability_and_divergence_are_those_of_torch() -> None:
    before, now = outputs(0, 5, 7, 6), outputs(1, 5, 7, 6)
    action = policy.act(before, outputs(2, 5, 7, 3))
    torch.testing.assert_close(policy.log_probability(now, action), normal(now).log_prob(action).sum(-1))
    want = kl_divergence(normal(before), normal(now)).sum(-1)
    torch.testing.assert_close(policy.divergence(before, now), want)
    assert (policy.divergence(now, now) == 0).all()


def test_actions_have_the_policys_mean_and_deviation() -> None:
    of = torch.tensor([0.5, -1.0, math.log(0.3), math.log(2.0)], dtype=torch.float64).expand(200_000, 4)
    drawn = policy.act(of, outputs(0, 200_000, 2))
    torch.testing.assert_close(drawn.mean(0), of[0, :2], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.std(0), of[0, 2:].exp(), atol=0.02, rtol=0)


def test_curvature_is_the_second_derivative_of_the_divergence() -> None:
    now = outputs(0, 6)
    hessian = torch.func.hessian(lambda of: policy.divergence(now, of))(now)
    torch.testing.assert_close(hessian, torch.diag(policy.curvature(now)))


def test_below_its_floor_a_deviation_has_no_gradient() -> None:
    of = torch.tensor([0.0, -20.0], dtype=torch.float64)
    slope = torch.func.grad(lambda o: policy.log_probability(o, torch.tensor([1e-6], dtype=torch.float64)))(of)
    assert slope[1] == 0 and slope.isfinite().all()
    assert policy.moments(of)[1].item() == math.log(1e-6)
    assert policy.curvature(of)[1] == 0
