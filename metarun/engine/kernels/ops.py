"""The native kernels as torch operators, ``torch.ops.metarun.*``, so that a trace can contain them.

Images are [T, N, C, H, W], channels last in memory; filters [T or 1, K, C, k, k] (N images and K filters). An operator
allocates its results and calls the kernel. Its ``Meta`` version only allocates; tracing runs that version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metarun.engine.kernels.build import library

_NAMESPACE = torch.library.Library("metarun", "DEF")


def _memory(x: Tensor) -> Tensor:
    """Return images [T, N, C, H, W] as contiguous [T, N, H, W, C]; no copy for channels last."""
    return x.permute(0, 1, 3, 4, 2).contiguous()


def _images(like: Tensor, tasks: int, n: int, channels: int, sides: Sequence[int]) -> Tensor:
    """Allocate images [T, N, C, H, W], channels last in memory."""
    return like.new_empty(tasks, n, *sides, channels).permute(0, 1, 4, 2, 3)


def operator(schema: str, results: Callable[..., Any], fill: Callable[..., None]) -> None:
    """Define a torch operator.

    Args:
        schema: name, arguments and results in torch's notation.
        results: (arguments) -> newly allocated results.
        fill: (results, arguments) -> None; computes the results in place.
    """
    name = schema.partition("(")[0]

    def computed(*arguments: Any) -> Any:
        made = results(*arguments)
        fill(made, *arguments)
        return made

    _NAMESPACE.define(schema)
    _NAMESPACE.impl(name, computed, "CPU")
    _NAMESPACE.impl(name, results, "Meta")


def out_sides(sides: Sequence[int], kernel: int, stride: int, padding: int) -> list[int]:
    """Return height and width of a convolution's output, from those of its input."""
    return [(side + 2 * padding - kernel) // stride + 1 for side in sides]


def _convolve_results(x: Tensor, w: Tensor, stride: int, padding: int, fast: bool) -> Tensor:
    return _images(x, len(x), x.shape[1], w.shape[1], out_sides(x.shape[3:], w.shape[-1], stride, padding))


def _convolve(y: Tensor, x: Tensor, w: Tensor, stride: int, padding: int, fast: bool) -> None:
    tasks, n, channels, h, width = x.shape
    sizes = (tasks, n, h, width, w.shape[1], channels)
    given = (_memory(x), w.contiguous(), _memory(y), *sizes)
    shared = int(len(w) == 1)
    if fast:
        library().call("winograd", *given, shared, 0)
    else:
        library().call("columns", *given, w.shape[-1], stride, padding, shared)


def _transpose_results(dy: Tensor, w: Tensor, stride: int, padding: int, sides: Sequence[int], fast: bool) -> Tensor:
    return _images(dy, len(dy), dy.shape[1], w.shape[2], sides)


def _transpose(dx: Tensor, dy: Tensor, w: Tensor, stride: int, padding: int, sides: Sequence[int], fast: bool) -> None:
    sizes = (dy.shape[0], dy.shape[1], *sides, w.shape[1], w.shape[2])
    given = (_memory(dy), w.contiguous(), _memory(dx), *sizes)
    shared = int(len(w) == 1)
    if fast:
        library().call("winograd", *given, shared, 1)
    else:
        library().call("columns_turned", *given, w.shape[-1], stride, padding, shared)


def _correlate_results(x: Tensor, dy: Tensor, kernel: int, stride: int, padding: int, fast: bool) -> Tensor:
    return x.new_empty(len(x), dy.shape[2], x.shape[2], kernel, kernel)


def _correlate(dw: Tensor, x: Tensor, dy: Tensor, kernel: int, stride: int, padding: int, fast: bool) -> None:
    tasks, n, channels, *sides = x.shape
    given = (_memory(x), _memory(dy), dw, tasks, n, *sides, dy.shape[2], channels)
    if fast:
        library().call("winograd_filters", *given)
    else:
        library().call("columns_filters", *given, kernel, stride, padding)


def _norm_results(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate z; mean and rstd [T, P]; best and chosen [T, N, H/2, W/2, P] with pooling (see norm.h).

    P is the number of channels rounded up to whole vectors.
    """
    tasks, n, channels, h, w = x.shape
    sides = (h // 2, w // 2) if pool else (h, w)
    filled = library().whole(channels, x.dtype)
    best = x.new_empty((tasks, n, *sides, filled) if pool else (tasks, 0))
    statistics = x.new_empty(tasks, filled), x.new_empty(tasks, filled)
    return _images(x, tasks, n, channels, sides), *statistics, best, best.new_empty(best.shape, dtype=torch.uint8)


def _norm(made: tuple[Tensor, ...], x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> None:
    z, *saved = made
    y = _memory(x)
    sizes = (*y.shape, int(relu), int(pool))
    library().call("norm", y, gamma.contiguous(), beta.contiguous(), eps, _memory(z), *saved, *sizes)


def _given(x: Tensor, gamma: Tensor, beta: Tensor, saved: tuple[Tensor, ...], relu: bool, pool: bool) -> Any:
    y = _memory(x)
    return tuple(t.contiguous() for t in (y, gamma, beta, *saved)), (*y.shape, int(relu), int(pool))


def _norm_backward_results(dz: Tensor, x: Tensor, gamma: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    tasks, n, channels, *sides = x.shape
    return _images(x, tasks, n, channels, sides), x.new_empty(tasks, channels), x.new_empty(tasks, channels)


def _norm_backward(made: Any, dz: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, *rest: Any) -> None:
    *saved, relu, pool = rest
    given, sizes = _given(x, gamma, beta, tuple(saved), relu, pool)
    library().call("norm_backward", _memory(dz), *given, _memory(made[0]), *made[1:], *sizes)


def _norm_second_results(
    u: Tensor, a: Tensor, b: Tensor, dz: Tensor, x: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    like_dz, like_x = (_images(t, len(t), t.shape[1], t.shape[2], t.shape[3:]) for t in (dz, x))
    return like_dz, like_x, x.new_empty(len(x), x.shape[2])


def _norm_second(
    made: Any, u: Tensor, a: Tensor, b: Tensor, dz: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, *rest: Any
) -> None:
    *saved, relu, pool = rest
    given, sizes = _given(x, gamma, beta, tuple(saved), relu, pool)
    cotangents = (_memory(u), a.contiguous(), b.contiguous())
    results = (_memory(made[0]), _memory(made[1]), made[2])
    library().call("norm_second", _memory(dz), *given, *cotangents, *results, *sizes)


_SAVED = "Tensor mean, Tensor rstd, Tensor best, Tensor chosen, bool relu, bool pool"
_LAYER = "Tensor x, Tensor gamma, Tensor beta"
operator("convolve(Tensor x, Tensor w, int stride, int padding, bool fast) -> Tensor", _convolve_results, _convolve)
operator(
    "transpose(Tensor dy, Tensor w, int stride, int padding, int[] sides, bool fast) -> Tensor",
    _transpose_results,
    _transpose,
)
operator(
    "correlate(Tensor x, Tensor dy, int kernel, int stride, int padding, bool fast) -> Tensor",
    _correlate_results,
    _correlate,
)
operator(
    f"norm({_LAYER}, float eps, bool relu, bool pool) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _norm_results,
    _norm,
)
operator(
    f"norm_backward(Tensor dz, {_LAYER}, {_SAVED}) -> (Tensor, Tensor, Tensor)", _norm_backward_results, _norm_backward
)
operator(
    f"norm_second(Tensor u, Tensor a, Tensor b, Tensor dz, {_LAYER}, {_SAVED}) -> (Tensor, Tensor, Tensor)",
    _norm_second_results,
    _norm_second,
)
