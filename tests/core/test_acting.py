"""Estimators of the inner step against the enumeration of every trajectory of a small decision process."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from metarun.core.acting import Estimator

STATES, ACTIONS, STEPS = 2, 2, 3


class Process:
    """A decision process with two states and actions, three steps, and every trajectory listed."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.moves = torch.rand(STATES, ACTIONS, STATES, generator=generator, dtype=torch.float64)
        self.moves /= self.moves.sum(-1, keepdim=True)
        self.reward = torch.randn(STATES, ACTIONS, generator=generator, dtype=torch.float64)
        self.theta = torch.randn(STATES * ACTIONS, generator=generator, dtype=torch.float64)
        self.baseline = torch.randn(STATES, generator=generator, dtype=torch.float64)
        listed = [list(itertools.product(range(STATES), range(ACTIONS)))] * STEPS
        self.paths = torch.tensor(list(itertools.product(*listed)))  # [paths, H, 2]
        self.states, self.actions = self.paths.unbind(-1)

    def log_pi(self, theta: Tensor) -> Tensor:
        """Log probabilities of the actions, [paths, H]."""
        logits = theta.view(STATES, ACTIONS).log_softmax(-1)
        return logits[self.states, self.actions]

    def chance(self, theta: Tensor) -> Tensor:
        """Probabilities of the trajectories, [paths]; the first state is one of both."""
        moved = self.moves[self.states[:, :-1], self.actions[:, :-1], self.states[:, 1:]]
        return self.log_pi(theta).exp().prod(1) * moved.prod(1) / STATES

    def gained(self) -> Tensor:
        """Rewards from each step on, [paths, H]."""
        return self.reward[self.states, self.actions].flip(1).cumsum(1).flip(1)

    def expected(self, theta: Tensor) -> Tensor:
        """The expected sum of rewards."""
        return (self.chance(theta) * self.gained()[:, 0]).sum()

    def surrogate(self, theta: Tensor, estimator: Estimator) -> Tensor:
        """The expectation of the estimator's surrogate over trajectories drawn with ``self.theta``."""
        advantage = self.gained() - self.baseline[self.states]
        valid = torch.ones_like(advantage)
        weights = estimator.weights(self.log_pi(theta), self.log_pi(self.theta), valid)
        return (self.chance(self.theta) * (weights * advantage).sum(1)).sum()


@pytest.fixture(params=[0, 1, 2])
def process(request: pytest.FixtureRequest) -> Process:
    return Process(request.param)


def test_every_trajectory_is_listed(process: Process) -> None:
    torch.testing.assert_close(process.chance(process.theta).sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("estimator", Estimator)
def test_the_first_derivative_is_that_of_the_expected_return(process: Process, estimator: Estimator) -> None:
    want = torch.func.grad(process.expected)(process.theta)
    got = torch.func.grad(lambda theta: process.surrogate(theta, estimator))(process.theta)
    torch.testing.assert_close(got, want)


def test_second_derivatives(process: Process) -> None:
    """DiCE's is exact. The others' expectations are the terms that the ProMP paper's equation 6 names."""
    now = {e: torch.func.hessian(lambda theta, e=e: process.surrogate(theta, e))(process.theta) for e in Estimator}
    exact = torch.func.hessian(process.expected)(process.theta)
    torch.testing.assert_close(now[Estimator.dice], exact)
    slopes = torch.func.jacrev(process.log_pi)(process.theta)  # [paths, H, theta]
    curves = torch.func.jacfwd(torch.func.jacrev(process.log_pi))(process.theta)
    advantage = process.gained() - process.baseline[process.states]
    weight = process.chance(process.theta)[:, None] * advantage
    h1 = torch.einsum("ph,phi,phj->ij", weight, slopes, slopes)
    h2 = torch.einsum("ph,phij->ij", weight, curves)
    torch.testing.assert_close(now[Estimator.official], h2)
    torch.testing.assert_close(now[Estimator.lvc], h1 + h2)

    def off(estimator: Estimator) -> float:
        return ((now[estimator] - exact).norm() / exact.norm()).item()

    assert off(Estimator.dice) < 1e-10 < 0.01 < min(off(Estimator.lvc), off(Estimator.official))


def test_masked_steps_say_nothing() -> None:
    """Rows behind an episode's end do not enter the products of later steps."""
    log_pi = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    slope = torch.func.jacrev(lambda p: Estimator.dice.weights(p, log_pi, valid))(log_pi)
    torch.testing.assert_close(slope, torch.diag_embed(valid.flatten()).view(2, 4, 2, 4))
