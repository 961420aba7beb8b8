from __future__ import annotations

import numpy as np
import pytest
import torch

from metarun.core import rng
from metarun.engine.trace import Trace


def splitmix64(seed: int, count: int) -> list[int]:
    """The published algorithm, on Python's unbounded integers."""
    mask, state, out = (1 << 64) - 1, seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_bits_are_splitmix64() -> None:
    for seed in (0, 1234567, 2**63 - 1):
        words = rng.bits(torch.tensor(seed), 5).numpy().astype(np.uint64).tolist()
        assert words == splitmix64(seed, 5)
    # the first outputs for seed 1234567, as other implementations print them
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]


def test_fold_takes_numbers_and_tensors_alike() -> None:
    key = rng.root(3)
    indices = torch.arange(100)
    assert torch.equal(rng.fold(key, indices), torch.stack([rng.fold(key, i) for i in range(100)]))
    assert len(set(rng.fold(key, indices).tolist())) == 100


def test_uniform_fills_its_range() -> None:
    values = rng.uniform(rng.fold(rng.root(0), torch.arange(1000)), 100)
    assert values.shape == (1000, 100) and values.dtype == torch.float32
    assert values.min() >= 0 and values.max() < 1
    counts = torch.histc(values, bins=10, min=0, max=1)
    assert (counts / values.numel() - 0.1).abs().max() < 0.005
    assert abs(torch.corrcoef(values[:, :2].T)[0, 1].item()) < 0.1


def test_integers_are_even() -> None:
    values = rng.integers(rng.root(1), 40_000, below=4)
    assert (values.bincount(minlength=4) / 40_000 - 0.25).abs().max() < 0.01


def test_permutation_is_one_and_fair() -> None:
    orders = rng.permutation(rng.fold(rng.root(2), torch.arange(5000)), 5)
    assert torch.equal(orders.sort(-1).values, torch.arange(5).expand(5000, 5))
    assert ((orders[:, 0].bincount(minlength=5) / 5000) - 0.2).abs().max() < 0.025


@pytest.mark.full
def test_a_compiled_permutation_is_the_same_and_stays_within_its_memory() -> None:
    """TorchInductor once made a loop of it whose end the C++ compiler dropped; more than one vector shows it."""

    def order(key: torch.Tensor) -> torch.Tensor:
        return rng.permutation(key, 50)

    keys = torch.arange(16)
    trace = Trace(order, keys)
    trace.compile(keys)
    assert torch.equal(trace(keys), order(keys))


def test_a_subset_is_the_beginning_of_a_permutation_of_what_there_is() -> None:
    keys = rng.fold(rng.root(4), torch.arange(3000))
    same = torch.full((3000,), 9)
    assert torch.equal(rng.subset(keys, same, most=9, size=5), rng.permutation(keys, 9)[:, :5])
    below = torch.arange(3000) % 3 + 4
    chosen = rng.subset(keys, below, most=6, size=4)
    assert (chosen < below[:, None]).all() and (chosen.sort(-1).values.diff() > 0).all()
    for bound in (4, 5, 6):
        share = chosen[below == bound].flatten().bincount(minlength=bound) / 1000
        assert (share - 4 / bound).abs().max() < 0.08


def test_normal_has_the_moments_of_one() -> None:
    values = rng.normal(rng.fold(rng.root(5), torch.arange(1000)), 200)
    assert values.shape == (1000, 200) and values.dtype == torch.float32 and values.isfinite().all()
    flat = values.flatten().double()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert flat.pow(power).mean().item() == pytest.approx(moment, abs=0.05)
    assert (flat.abs() < 1.96).double().mean().item() == pytest.approx(0.95, abs=0.003)
    assert abs(torch.corrcoef(values[:, :2].T)[0, 1].item()) < 0.1
    assert torch.equal(rng.normal(rng.root(5), 3), rng.normal(rng.root(5), 9)[:3])
