"""Pieces of hypergrad.py alone; test_conformance.py holds whole meta-gradients against references."""

from __future__ import annotations

import torch

from metarun import tree
from metarun.hypergrad import conjugate_gradient


def spd(n: int) -> torch.Tensor:
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return a @ a.T / n + torch.eye(n, dtype=torch.float64)


def test_conjugate_gradient_solves() -> None:
    matrix, rhs = spd(8), {"x": torch.arange(8, dtype=torch.float64)}
    solved = conjugate_gradient(lambda v: {"x": matrix @ v["x"]}, rhs, steps=8)
    torch.testing.assert_close(matrix @ solved["x"], rhs["x"])


def test_conjugate_gradient_rests_once_it_is_there() -> None:
    rhs = {"x": torch.tensor([1.0, -2.0])}
    solved = conjugate_gradient(lambda v: tree.scale(4.0, v), rhs, steps=50)
    torch.testing.assert_close(solved["x"], rhs["x"] / 4)
    zero = conjugate_gradient(lambda v: v, {"x": torch.zeros(2)}, steps=5)
    assert torch.equal(zero["x"], torch.zeros(2))


def test_conjugate_gradient_batches_over_tasks() -> None:
    matrices, rhs = torch.stack([spd(4), 3 * spd(4)]), torch.ones(2, 4, dtype=torch.float64)
    solve = torch.vmap(lambda m, b: conjugate_gradient(lambda v: {"x": m @ v["x"]}, {"x": b}, 4)["x"])
    torch.testing.assert_close(torch.bmm(matrices, solve(matrices, rhs)[..., None])[..., 0], rhs)
