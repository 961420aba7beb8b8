"""Hypergradients: the gradient of the query loss after S inner steps with respect to the meta-parameters.

Every function works on one task and returns (gradient like ``meta``, metrics of the query set). They are pure, so
``vmap`` may batch them over tasks. It must be outermost: differentiating *outside* of a vmap is silently wrong
through batch norm with a scale in torch 2.13.

    store      exact; keeps the graph of all S steps (MAML, Finn et al. 2017, algorithm 1)
    recompute  exact; keeps iterates and redoes one step at a time, so memory does not grow with the graph
    implicit   from the optimality of the adapted parameters alone (iMAML, Rajeswaran et al. 2019, equation 6)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vjp

from metarun.core import tree
from metarun.core.inner import Carry, Inner, descend, final
from metarun.core.meta import Meta
from metarun.core.problem import Metrics
from metarun.core.tree import Params

Outer = Callable[[Meta, Carry], tuple[Tensor, Metrics]]  # (meta, last carry) -> query loss, metrics


def store(inner: Inner, outer: Outer, meta: Meta, steps: int) -> tuple[Meta, Metrics]:
    """Differentiate through the unrolled inner loop; memory grows with ``steps`` times the activations."""

    def unrolled(meta: Meta) -> tuple[Tensor, Metrics]:
        return outer(meta, final(inner, meta, steps))

    grads, (_, metrics) = grad_and_value(unrolled, has_aux=True)(meta)
    return grads, metrics


def recompute(inner: Inner, outer: Outer, meta: Meta, steps: int, segment: int) -> tuple[Meta, Metrics]:
    """The same derivative by a reverse sweep that redoes each step from its stored iterate.

    With lambda_S the query gradient at theta_S, each step contributes lambda_k = (d step_k / d theta_k)^T
    lambda_{k+1}, and (d step_k / d meta)^T lambda_{k+1} to the result; for SGD the first is a Hessian-vector product.
    Of a loop longer than ``segment`` only every ``segment``-th iterate is kept, and the ones between are found again on
    the way back: steps / segment + segment iterates in memory, fewest where segment is the root of the steps.
    """
    kept: dict[int, Carry] = {}
    for k, carry in enumerate(descend(inner, meta, steps)):
        last = carry
        if k < steps and (k % segment == 0 or steps <= segment):
            kept[k] = carry
    grads, adjoint, metrics = _query_gradient(outer, meta, last)
    for k in reversed(range(steps)):
        if k not in kept:
            begin = k - k % segment
            kept |= zip(range(begin, k + 1), descend(inner, meta, k, begin, _again(kept[begin])), strict=True)
        # in one expression, so that a step's graph is gone before the next one's is built
        from_step, adjoint = vjp(lambda m, c, k=k: inner.step(m, c, k), meta, _again(kept.pop(k)))[1](adjoint)
        grads = tree.add(grads, from_step)
    return tree.add(grads, _through_start(inner, meta, adjoint)), metrics


def _again(carry: Carry) -> Carry:
    """A copy. A trace would otherwise find that a step from it was computed before, and keep its activations."""
    return tree.combine(torch.clone, carry)


def _query_gradient(outer: Outer, meta: Meta, last: Carry) -> tuple[Meta, Carry, Metrics]:
    """The query loss's gradient in the meta-parameters themselves and in the last carry."""
    linearised: Any = vjp(outer, meta, last, has_aux=True)
    loss, pull, metrics = linearised
    return *pull(torch.ones_like(loss)), metrics


def _through_start(inner: Inner, meta: Meta, adjoint: Carry) -> Meta:
    """What the gradient in the first carry contributes to the meta-parameters."""
    return vjp(inner.start, meta)[1](adjoint)[0]


def implicit(
    inner: Inner,
    outer: Outer,
    meta: Meta,
    steps: int,
    *,
    support_loss: Callable[[Params], Tensor],
    proximal: float,
    damping: float,
    cg_steps: int,
) -> tuple[Params, Metrics]:
    """Solve ((1 + damping) I + H / proximal) g = query gradient by conjugate gradient, H the support loss's Hessian.

    Exact without damping, where the proximal inner problem is solved and conjugate gradient has converged (iMAML,
    algorithm 2). Damping keeps the system positive definite where H has large negative eigenvalues.
    """
    last = final(inner, meta, steps)
    rhs, (_, metrics) = grad_and_value(lambda p: outer(meta, Carry(p, last.state)), has_aux=True)(last.params)
    hessian_product = vjp(grad(support_loss), last.params)[1]  # linearised once, reused by every iteration

    def system(v: Params) -> Params:
        return tree.add_scaled(tree.scale(1 + damping, v), 1 / proximal, hessian_product(v)[0])

    return conjugate_gradient(system, rhs, cg_steps), metrics


def conjugate_gradient(system: Callable[[Params], Params], rhs: Params, steps: int) -> Params:
    """Approximate solution of ``system(x) = rhs`` for a symmetric positive definite system, from x = 0.

    A fixed number of steps (Hestenes and Stiefel 1952); once the residual is zero the remaining ones change nothing.
    """

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(b != 0, a / torch.where(b != 0, b, 1), 0)

    x, residual, direction = tree.zeros_like(rhs), rhs, rhs
    square = tree.dot(residual, residual)
    for _ in range(steps):
        image = system(direction)
        step = ratio(square, tree.dot(direction, image))
        x = tree.add_scaled(x, step, direction)
        residual = tree.add_scaled(residual, -step, image)
        before, square = square, tree.dot(residual, residual)
        direction = tree.add_scaled(residual, ratio(square, before), direction)
    return x
