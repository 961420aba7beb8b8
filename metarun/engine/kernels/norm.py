"""``norm_relu_pool`` by the native kernels, for T tasks at once.

Exact to the second derivative, which is all that a meta-gradient needs; a third raises an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

import metarun.engine.kernels.ops  # noqa: F401  the operators
from metarun.engine.kernels.batching import lengthened


def native_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor:
    """As ``ops.norm_relu_pool``; under ``vmap`` one call serves all tasks."""
    z = Forward.apply(x.unsqueeze(0), gamma.unsqueeze(0), beta.unsqueeze(0), eps, relu, pool)[0]
    return z.squeeze(0)


class Forward(Function):
    """(x, gamma, beta) -> (z, and what the derivatives need: mean, rstd, the pooled x, its place in the window)."""

    @staticmethod
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> tuple[Tensor, ...]:
        return torch.ops.metarun.norm(x, gamma, beta, eps, relu, pool)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:3], *output[1:])
        ctx.settings = inputs[4:]
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, dz: Tensor, *_: Any) -> Any:
        return *Backward.apply(dz, *ctx.saved_tensors, *ctx.settings), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return lengthened(Forward, info, in_dims, arguments)


class Backward(Function):
    """(dz, x, gamma, beta, *saved) -> (dx, dgamma, dbeta)."""

    @staticmethod
    def forward(dz: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.metarun.norm_backward(dz, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:8])
        ctx.settings = inputs[8:]

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> Any:
        d_dz, d_x, d_gamma = Second.apply(u, a, b, *ctx.saved_tensors, *ctx.settings)
        return d_dz, d_x, d_gamma, *(None,) * 7

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return lengthened(Backward, info, in_dims, arguments)


class Second(Function):
    """The gradient of u.dx + a.dgamma + b.dbeta in (dz, x, gamma)."""

    @staticmethod
    def forward(u: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.metarun.norm_second(u, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("batch norm's third derivative; use device.vectorize=loop")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return lengthened(Second, info, in_dims, arguments)
