"""``norm_relu_pool`` by the native kernels, for T tasks at once.

The first and second derivatives are exact; a meta-gradient needs no higher one. The third raises an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

import metarun.engine.kernels.ops  # noqa: F401  the operators
from metarun.engine.kernels.batching import lengthened


def native_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor:
    """Compute ``norm_relu_pool`` of ``core/ops.py`` for one task; under ``vmap`` one call serves all tasks.

    Args:
        x: images [N, C, H, W].
        gamma: scale [C].
        beta: shift [C].
        eps: added to the variance.
        relu: whether ReLU follows.
        pool: whether 2x2 max-pooling follows.

    Returns:
        [N, C, H, W], or [N, C, H/2, W/2] with pooling.
    """
    z = Forward.apply(x.unsqueeze(0), gamma.unsqueeze(0), beta.unsqueeze(0), eps, relu, pool)[0]
    return z.squeeze(0)


class Forward(Function):
    """(x, gamma, beta) -> (z, mean, rstd, best, chosen).

    The derivatives use the last four: the mean, 1 / standard deviation, and the x that each pooling window passes on
    with its position in the window.
    """

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
    """First derivative: (dz, x, gamma, beta, *saved) -> (dx, dgamma, dbeta)."""

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
    """Second derivative: the gradient of u.dx + a.dgamma + b.dbeta with respect to (dz, x, gamma)."""

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
