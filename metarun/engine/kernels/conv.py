"""Convolutions with a task axis, where every task has its own filters.

    x [T, N, C, H, W]    w [T or 1, K, C, k, k]    y [T, N, K, h, w]    (here N images and K filters)

Each of the three functions is linear in its two tensors, and its derivatives are the other two functions:

    Convolve   (x, w) -> y      Transpose  (dy, w) -> dx      Correlate  (x, dy) -> dw

So they give derivatives of any order, and ``vmap`` only makes T longer. Tensors are channels last in memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.grad
from torch import Tensor
from torch.autograd import Function

import metarun.engine.kernels.ops  # noqa: F401  the operators
from metarun.engine.kernels.batching import lengthened
from metarun.engine.kernels.build import Library


class Geometry(NamedTuple):
    """The settings of a convolution.

    Attributes:
        kernel: side of the filters, k.
        stride: the stride of both axes.
        padding: the padding of both axes.
        sides: height and width (H, W) of the input.
        route: the implementation: "winograd", "columns" or "torch".
    """

    kernel: int
    stride: int
    padding: int
    sides: tuple[int, int]
    route: str


def route(x: Tensor, w: Tensor, stride: int, padding: int, native: Library | None) -> str:
    """Choose the implementation of a convolution, by the measurements in benchmarks/NOTES.md.

    Args:
        x: images [..., C, H, W].
        w: filters [K, C, k, k].
        stride: the stride of both axes.
        padding: the padding of both axes.
        native: the native kernels; None: torch's operations.

    Returns:
        "winograd", "columns" or "torch".
    """
    _, channels, kernel, _ = w.shape
    if native is None:
        return "torch"
    h, width = x.shape[-2:]
    saving = 9 * h * width / (16 * -(-h // 2) * -(-width // 2))  # in multiplications; odd sides waste part of a tile
    filtered = (kernel, stride, padding) == (3, 1, 1) and saving > 1.4 and channels > 3
    return "winograd" if filtered else "columns"


def conv2d(x: Tensor, w: Tensor, bias: Tensor | None, stride: int, padding: int, native: Library | None) -> Tensor:
    """Compute ``F.conv2d`` for one task; under ``vmap`` one kernel call serves all tasks.

    Args:
        x: images [N, C, H, W].
        w: filters [K, C, k, k].
        bias: [K], or None.
        stride: the stride of both axes.
        padding: the padding of both axes.
        native: the native kernels; None: torch's operations.

    Returns:
        [N, K, h, w].
    """
    chosen = route(x, w, stride, padding, native)
    geometry = Geometry(w.shape[-1], stride, padding, (x.shape[-2], x.shape[-1]), chosen)
    y = Convolve.apply(x.unsqueeze(0), w.unsqueeze(0), geometry).squeeze(0)
    return y if bias is None else y + bias[:, None, None]


class _Bilinear(Function):
    """The common part of the three functions: both tensors are saved for the derivative."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Geometry], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.geometry = inputs[2]


def _to_shape_of(grad: Tensor, w: Tensor) -> Tensor:
    """Sum the tasks' gradients where all tasks shared one set of filters."""
    return grad.sum(0, keepdim=True) if w.shape[0] == 1 and grad.shape[0] > 1 else grad


class Convolve(_Bilinear):
    """Convolution: (x, w) -> y [T, N, K, h, w]."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, g: Geometry) -> Tensor:
        if g.route == "torch":
            return _torch_convolve(x, w, g)
        return torch.ops.metarun.convolve(x, w, g.stride, g.padding, g.route == "winograd")

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, w = ctx.saved_tensors
        g, needs = ctx.geometry, ctx.needs_input_grad
        dx = Transpose.apply(dy, w, g) if needs[0] else None
        return dx, _to_shape_of(Correlate.apply(x, dy, g), w) if needs[1] else None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, w: Tensor, g: Geometry) -> Any:
        return lengthened(Convolve, info, in_dims, (x, w, g), shared=1)


class Transpose(_Bilinear):
    """Transposed convolution: (dy, w) -> dx [T, N, C, H, W], the gradient of the images."""

    @staticmethod
    def forward(dy: Tensor, w: Tensor, g: Geometry) -> Tensor:
        if g.route == "torch":
            return _torch_transpose(dy, w, g)
        return torch.ops.metarun.transpose(dy, w, g.stride, g.padding, g.sides, g.route == "winograd")

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Any:
        dy, w = ctx.saved_tensors
        g, needs = ctx.geometry, ctx.needs_input_grad
        ddy = Convolve.apply(dx, w, g) if needs[0] else None
        return ddy, _to_shape_of(Correlate.apply(dx, dy, g), w) if needs[1] else None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, dy: Tensor, w: Tensor, g: Geometry) -> Any:
        return lengthened(Transpose, info, in_dims, (dy, w, g), shared=1)


class Correlate(_Bilinear):
    """Correlation: (x, dy) -> dw [T, K, C, k, k], the gradient of the filters."""

    @staticmethod
    def forward(x: Tensor, dy: Tensor, g: Geometry) -> Tensor:
        if g.route == "torch":
            return _torch_correlate(x, dy, g)
        return torch.ops.metarun.correlate(x, dy, g.kernel, g.stride, g.padding, g.route == "winograd")

    @staticmethod
    def backward(ctx: Any, dw: Tensor) -> Any:
        x, dy = ctx.saved_tensors
        g, needs = ctx.geometry, ctx.needs_input_grad
        dx = Transpose.apply(dy, dw, g) if needs[0] else None
        return dx, Convolve.apply(x, dw, g) if needs[1] else None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, dy: Tensor, g: Geometry) -> Any:
        return lengthened(Correlate, info, in_dims, (x, dy, g))


def _torch_convolve(x: Tensor, w: Tensor, g: Geometry) -> Tensor:
    if w.shape[0] == 1:
        flat = torch.conv2d(_nhwc(x.flatten(0, 1)), w[0], None, g.stride, g.padding)
        return flat.unflatten(0, x.shape[:2])
    return torch.stack([torch.conv2d(_nhwc(a), b, None, g.stride, g.padding) for a, b in zip(x, w, strict=True)])


def _torch_transpose(dy: Tensor, w: Tensor, g: Geometry) -> Tensor:
    shape = (dy.shape[1], w.shape[2], *g.sides)
    filters = w.expand(len(dy), *w.shape[1:])
    rows = [
        torch.nn.grad.conv2d_input(shape, b, _nhwc(a), g.stride, g.padding) for a, b in zip(dy, filters, strict=True)
    ]
    return torch.stack(rows)


def _torch_correlate(x: Tensor, dy: Tensor, g: Geometry) -> Tensor:
    shape = (dy.shape[2], x.shape[2], g.kernel, g.kernel)
    rows = [
        torch.nn.grad.conv2d_weight(_nhwc(a), shape, _nhwc(b), g.stride, g.padding) for a, b in zip(x, dy, strict=True)
    ]
    return torch.stack(rows)


def _nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
