"""Hypergradients: the gradient of the query loss after S inner steps with respect to the meta-parameters.

Every function works on one task and returns (gradient like ``meta``, metrics of the query set). They are pure, so
``vmap`` can batch them over tasks. The vmap must be outermost: differentiating *outside* of a vmap gives silently wrong
gradients through batch norm with a scale in torch 2.13.

    store      exact; keeps the graph of all S steps (MAML, Finn et al. 2017, algorithm 1)
    recompute  exact; keeps iterates and repeats one step at a time: one step's graph in memory
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
from metarun.core.tree import Params, Tree

Outer = Callable[[Meta, Carry], tuple[Tensor, Metrics]]  # (meta, last carry) -> query loss, metrics


def store(inner: Inner, outer: Outer, meta: Meta, steps: int) -> tuple[Meta, Metrics]:
    """Differentiate through the unrolled inner loop; memory grows with ``steps`` times the activations.

    Args:
        inner: the inner loop of one task.
        outer: (meta, last carry) -> (query loss, metrics).
        meta: meta-parameters.
        steps: inner steps S.

    Returns:
        (exact gradient of the query loss like ``meta``, metrics of the query set).

    Source: MAML, Finn et al. 2017, algorithm 1.
    """

    def unrolled(meta: Meta) -> tuple[Tensor, Metrics]:
        return outer(meta, final(inner, meta, steps))

    grads, (_, metrics) = grad_and_value(unrolled, has_aux=True)(meta)
    return grads, metrics


def recompute(inner: Inner, outer: Outer, meta: Meta, steps: int, segment: int) -> tuple[Meta, Metrics]:
    """Compute the same gradient as ``store`` by a reverse sweep that repeats each step from its stored iterate.

    lambda_S is the query gradient at theta_S. Going back, lambda_k = (d step_k / d theta_k)^T lambda_{k+1}, for SGD a
    Hessian-vector product, and each step adds (d step_k / d meta)^T lambda_{k+1} to the result. A loop longer than
    ``segment`` keeps only every ``segment``-th iterate and computes those between again on the way back. Memory holds
    steps / segment + segment iterates, fewest where segment is the square root of steps.

    Args:
        inner: the inner loop of one task.
        outer: (meta, last carry) -> (query loss, metrics).
        meta: meta-parameters.
        steps: inner steps S.
        segment: inner steps between two kept iterates.

    Returns:
        (exact gradient of the query loss like ``meta``, metrics of the query set).
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
        # one expression, so that a step's graph is freed before the next one is built
        from_step, adjoint = vjp(lambda m, c, k=k: inner.step(m, c, k), meta, _again(kept.pop(k)))[1](adjoint)
        grads = tree.add(grads, from_step)
    return tree.add(grads, _through_start(inner, meta, adjoint)), metrics


def _again(carry: Carry) -> Carry:
    """Copy a carry. Otherwise a trace finds that the step from it was already computed, and keeps its activations."""
    return tree.combine(torch.clone, carry)


def _query_gradient(outer: Outer, meta: Meta, last: Carry) -> tuple[Meta, Carry, Metrics]:
    """Gradients of the query loss with respect to ``meta`` (directly) and the last carry, and the metrics."""
    linearised: Any = vjp(outer, meta, last, has_aux=True)
    loss, pull, metrics = linearised
    return *pull(torch.ones_like(loss)), metrics


def _through_start(inner: Inner, meta: Meta, adjoint: Carry) -> Meta:
    """Pull the gradient with respect to the first carry back to the meta-parameters."""
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

    The result is exact if there is no damping, the inner loop has solved its proximal problem and conjugate gradient
    has converged. Damping keeps the system positive definite where H has large negative eigenvalues.

    Args:
        inner: the inner loop of one task.
        outer: (meta, last carry) -> (query loss, metrics).
        meta: meta-parameters.
        steps: inner steps S.
        support_loss: parameters -> support loss at the solution, a scalar.
        proximal: strength of the proximal term (lambda in the paper), > 0.
        damping: added to the identity, >= 0.
        cg_steps: conjugate gradient iterations.

    Returns:
        (g, like the model's parameters; metrics of the query set).

    Source: iMAML, Rajeswaran et al. 2019, equation 6 and algorithm 2.
    """
    last = final(inner, meta, steps)
    rhs, (_, metrics) = grad_and_value(lambda p: outer(meta, Carry(p, last.state)), has_aux=True)(last.params)
    hessian_product = vjp(grad(support_loss), last.params)[1]  # linearised once for all iterations

    def system(v: Params) -> Params:
        return tree.add_scaled(tree.scale(1 + damping, v), 1 / proximal, hessian_product(v)[0])

    return conjugate_gradient(system, rhs, cg_steps)[0], metrics


def conjugate_gradient(system: Callable[[Tree], Tree], rhs: Tree, steps: int) -> tuple[Tree, Tree]:
    """Solve ``system(x) = rhs`` approximately, from x = 0.

    Args:
        system: symmetric positive definite linear map.
        rhs: right-hand side.
        steps: iterations; once the residual is zero, further ones change nothing.

    Returns:
        (x, the residual ``rhs - system(x)``), both like ``rhs``.

    Source: Hestenes and Stiefel 1952.
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
    return x, residual
