"""Returns, baseline and advantages against a plain loop over ragged episodes."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

from metarun.core import returns

TASKS, EPISODES, HORIZON, OBSERVATIONS = 3, 4, 9, 2


@pytest.fixture
def played() -> tuple[Tensor, Tensor, Tensor]:
    """Observations [T, M, H, O], rewards [T, M, H] and valid [T, M, H] of episodes of random lengths."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, HORIZON + 1, (TASKS, EPISODES), generator=generator)
    valid = (torch.arange(HORIZON) < lengths[..., None]).float()
    observations = torch.randn(TASKS, EPISODES, HORIZON, OBSERVATIONS, generator=generator) * 8
    rewards = torch.randn(TASKS, EPISODES, HORIZON, generator=generator)
    return observations * valid[..., None], rewards * valid, valid


def by_hand(observations: Tensor, rewards: Tensor, valid: Tensor, discount: float, gae: float) -> list[numpy.ndarray]:
    """[discounted returns, baseline, standardised advantages] of one task, one list entry for each episode."""
    lengths = [int(row.sum()) for row in valid]
    paths = [(o[:n].double().numpy(), r[:n].double().numpy()) for o, r, n in zip(observations, rewards, lengths)]  # noqa: B905
    sums, rows = [], []
    for o, r in paths:
        sums.append(numpy.array([sum(discount ** (j - i) * r[j] for j in range(i, len(r))) for i in range(len(r))]))
        o = o.clip(-10, 10)
        t = numpy.arange(len(r))[:, None] / 100
        rows.append(numpy.concatenate([o, o**2, t, t**2, t**3, numpy.ones_like(t)], 1))
    x, y = numpy.concatenate(rows), numpy.concatenate(sums)
    weights = numpy.linalg.solve(x.T @ x + 1e-5 * numpy.eye(x.shape[1]), x.T @ y)
    values = [row @ weights for row in rows]
    raw = []
    for (_, r), v in zip(paths, values, strict=True):
        errors = [r[i] + discount * (v[i + 1] if i + 1 < len(r) else 0) - v[i] for i in range(len(r))]
        raw.append([sum((discount * gae) ** (j - i) * errors[j] for j in range(i, len(r))) for i in range(len(r))])
    every = numpy.concatenate(raw)
    better = [(numpy.array(row) - every.mean()) / (every.std() + 1e-8) for row in raw]
    return [*sums, *values, *better]


@pytest.mark.parametrize(("discount", "gae"), [(0.99, 1.0), (0.9, 0.7), (1.0, 0.0)])
def test_a_plain_loop_says_the_same(played: tuple[Tensor, Tensor, Tensor], discount: float, gae: float) -> None:
    observations, rewards, valid = played
    sums = returns.discounted(rewards, discount)
    values = returns.fitted_values(observations, sums, valid)
    better = returns.standardised(returns.advantages(rewards, values, valid, discount, gae), valid)
    for task in range(TASKS):
        want = by_hand(observations[task], rewards[task], valid[task], discount, gae)
        got = [of[task, m, : int(valid[task, m].sum())] for of in (sums, values, better) for m in range(EPISODES)]
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one.double(), torch.from_numpy(other), rtol=1e-5, atol=1e-5)
    assert (values[valid == 0] == 0).all() and (better[valid == 0] == 0).all()


def test_what_lies_behind_an_episodes_end_counts_nowhere(played: tuple[Tensor, Tensor, Tensor]) -> None:
    observations, rewards, valid = played
    sums = returns.discounted(rewards, 0.99)
    values = returns.fitted_values(observations, sums, valid)
    other = torch.where(valid[..., None] == 0, 5.0, observations)
    torch.testing.assert_close(returns.fitted_values(other, sums, valid), values)


def test_one_row_and_equal_rewards_are_finite() -> None:
    """A task whose episodes all end at once has one row each, and its advantages have no spread."""
    valid = torch.zeros(1, 2, 5)
    valid[..., 0] = 1
    rewards = -0.2 * valid
    values = returns.fitted_values(torch.zeros(1, 2, 5, 2), rewards, valid)
    better = returns.standardised(returns.advantages(rewards, values, valid, 0.99, 1.0), valid)
    assert better.isfinite().all() and (better.abs() < 1e-3).all()
    assert returns.explained(values, rewards, valid).isfinite().all()


def test_explained_variance_is_its_definition(played: tuple[Tensor, Tensor, Tensor]) -> None:
    observations, rewards, valid = played
    sums = returns.discounted(rewards, 0.99)
    values = returns.fitted_values(observations, sums, valid)
    got = returns.explained(values, sums, valid)
    for task in range(TASKS):
        rows = valid[task] == 1
        left, all_of_it = (sums[task] - values[task])[rows], sums[task].double()[rows]
        want = 1 - left.var(correction=0) / all_of_it.var(correction=0)
        torch.testing.assert_close(got[task], want, rtol=1e-5, atol=1e-5)
