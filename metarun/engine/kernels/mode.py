"""A mode that replaces torch's convolution and batch norm by the task-batched operations of this folder.

The results are the same up to rounding. It speeds up every module that calls ``F.conv2d`` or ``F.batch_norm``, as
torch's layers do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metarun.compat.torch_dispatch import TorchDispatchMode
from metarun.core.ops import norm_relu_pool
from metarun.engine.kernels.build import SUFFIX, Library
from metarun.engine.kernels.conv import conv2d
from metarun.engine.kernels.norm import native_norm


class Grouped(TorchFunctionMode):
    """Context manager within which the task-batched operations run.

    Args:
        native: the compiled kernels; None: torch's operations, task by task, channels last in memory.
    """

    def __init__(self, native: Library | None):
        super().__init__()
        self.native = native

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = None
        if func is torch.conv2d:
            result = self._conv2d(*args, **kwargs)
        elif func is F.batch_norm:
            result = self._batch_norm(*args, **kwargs)
        elif func is norm_relu_pool:
            result = self._norm(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result

    # Each method returns None for arguments that its operation does not cover. Then torch's function runs.

    def _conv2d(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor | None:  # fmt: skip
        step, border = _one(stride), _one(padding)
        if step is None or border is None or weight.shape[-1] != weight.shape[-2]:
            return None
        if groups != 1 or _one(dilation) != 1 or input.ndim != 4 or input.dtype not in SUFFIX:
            return None
        fitting = input.shape[1] == weight.shape[1] and min(input.shape[2:]) + 2 * border >= weight.shape[-1]
        alike = all(p.dtype is input.dtype for p in (weight, bias) if p is not None)
        if not fitting or not alike or (bias is not None and bias.shape != weight.shape[:1]):
            return None  # torch raises the error
        return conv2d(input, weight, bias, step, border, self.native)

    def _batch_norm(
        self, input: Tensor, running_mean: Any, running_var: Any, weight: Tensor | None = None,
        bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor | None:  # fmt: skip
        if not training or running_mean is not None or running_var is not None or input.ndim != 4 or eps <= 0:
            return None
        if weight is None or bias is None:
            return None
        return self._norm(input, weight, bias, eps, False, False)

    def _norm(self, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor | None:
        covered = self.native is not None and x.dtype in SUFFIX
        fitting = all(p.shape == x.shape[1:2] and p.dtype is x.dtype for p in (gamma, beta))
        covered = covered and fitting and x.numel() > x.shape[1] and (not pool or min(x.shape[2:]) > 1)
        return native_norm(x, gamma, beta, eps, relu, pool) if covered else None


def serves(native: Library, run: Callable[[], object]) -> bool:
    """Whether the kernels compute any operation of a network.

    Args:
        native: the compiled kernels.
        run: runs the network once. Where it fails, the operations before the failure count.
    """
    with contextlib.suppress(Exception), torch.no_grad(), _Seen() as seen, Grouped(native):
        run()
    return seen.kernels


class _Seen(TorchDispatchMode):
    """Context manager: ``kernels`` becomes True when an operator of ops.py runs."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels |= func.namespace == "metarun"
        return func(*args, **(kwargs or {}))


def _one(value: Any) -> int | None:
    """Return the one number of a stride, padding or dilation; None for a word, or where the axes differ."""
    if isinstance(value, int):
        return value
    return value[0] if not isinstance(value, str) and len(set(value)) == 1 else None
