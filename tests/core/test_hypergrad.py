"""Pieces of hypergrad.py alone; test_conformance.py holds whole meta-gradients against references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metarun.core import hypergrad, tree
from metarun.core.hypergrad import conjugate_gradient, recompute, store
from metarun.core.inner import SGD, Carry, Inner
from metarun.core.meta import Meta
from metarun.core.tree import Params
from metarun.engine.trace import Trace


def spd(n: int) -> torch.Tensor:
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return a @ a.T / n + torch.eye(n, dtype=torch.float64)


def test_conjugate_gradient_solves() -> None:
    matrix, rhs = spd(8), {"x": torch.arange(8, dtype=torch.float64)}
    solved, residual = conjugate_gradient(lambda v: {"x": matrix @ v["x"]}, rhs, steps=8)
    torch.testing.assert_close(matrix @ solved["x"], rhs["x"])
    assert residual["x"].norm() < 1e-9
    early, residual = conjugate_gradient(lambda v: {"x": matrix @ v["x"]}, rhs, steps=3)
    torch.testing.assert_close(residual["x"], rhs["x"] - matrix @ early["x"])
    assert residual["x"].norm() > 1e-3


def test_conjugate_gradient_rests_once_it_is_there() -> None:
    rhs = {"x": torch.tensor([1.0, -2.0])}
    solved, _ = conjugate_gradient(lambda v: tree.scale(4.0, v), rhs, steps=50)
    torch.testing.assert_close(solved["x"], rhs["x"] / 4)
    zero, _ = conjugate_gradient(lambda v: v, {"x": torch.zeros(2)}, steps=5)
    assert torch.equal(zero["x"], torch.zeros(2))


def test_conjugate_gradient_batches_over_tasks() -> None:
    matrices, rhs = torch.stack([spd(4), 3 * spd(4)]), torch.ones(2, 4, dtype=torch.float64)
    solve = torch.vmap(lambda m, b: conjugate_gradient(lambda v: {"x": m @ v["x"]}, {"x": b}, 4)[0]["x"])
    torch.testing.assert_close(torch.bmm(matrices, solve(matrices, rhs)[..., None])[..., 0], rhs)


def curved(x: Tensor) -> tuple[Inner, hypergrad.Outer]:
    """Descent on a loss with a Hessian that changes along the way."""
    sgd = SGD(lr=0.1)

    def loss(params: Params) -> Tensor:
        return (x @ params["w"]).tanh().square().sum()

    def step(meta: Meta, carry: Carry, k: int) -> Carry:
        return sgd.update(carry, torch.func.grad(loss)(carry.params))

    def outer(meta: Meta, carry: Carry) -> tuple[Tensor, dict[str, Tensor]]:
        value = (x @ carry.params["w"]).sin().sum()
        return value, {"loss": value}

    return Inner(lambda meta: Carry(meta.model, {}), step), outer


@pytest.mark.parametrize("segment", [1, 4, 10])
@pytest.mark.parametrize("steps", [1, 9, 10, 11, 20, 34])
@pytest.mark.parametrize("dtype, allowed", [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_recompute_is_store_however_long_the_loop(steps: int, segment: int, dtype: torch.dtype, allowed: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((7, 4), (4, 3)))
    (inner, outer), meta = curved(x), Meta.of({"w": w})
    want, _ = store(inner, outer, meta, steps)
    got, _ = recompute(inner, outer, meta, steps, segment)
    assert (tree.norm(tree.subtract(got, want)) / tree.norm(want)).item() < allowed


def test_a_trace_recomputes_too() -> None:
    """Finding common expressions must not turn recompute into store, which keeps the activations."""
    x, meta = torch.randn(7, 4), Meta.of({"w": torch.randn(4, 3)})

    def forward_passes(path: Any, *segment: int) -> int:
        trace: Any = Trace(lambda meta, x: path(*curved(x), meta, 5, *segment), meta, x)
        return sum(node.target is torch.ops.aten.tanh.default for node in trace.graph.graph.nodes)

    assert forward_passes(store) == 5 and forward_passes(recompute, 10) == 10
