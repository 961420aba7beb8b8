"""Functions whose input must lie in memory as its axes are numbered, and a mode that sees to it.

Behind a convolution of kernels/ tensors lie channels last. torch's vmap cannot ask for that ("NYI: querying
is_contiguous") and has then no group norm and no second derivative of max-pooling; and torch's own batch norm of
volumes with one axis of size 1 has a wrong derivative there (torch 2.13).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

VOLUMES = {F.batch_norm, torch.batch_norm}  # only these
_MAX = [
    f"{kind}max_pool{axes}d{where}" for kind in ("", "adaptive_") for axes in "123" for where in ("", "_with_indices")
]
PLAIN = {getattr(place, name) for place in (F, torch) for name in ("group_norm", *_MAX) if hasattr(place, name)}


class PlainLayout(TorchFunctionMode):
    """Context manager: within, these functions get a copy of an input that lies otherwise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in PLAIN or func in VOLUMES:
            x, *rest = args or (kwargs.pop("input"),)
            if func in PLAIN or x.ndim == 5:
                x = plain(x)
            args = (x, *rest)
        return func(*args, **kwargs)


def plain(x: Tensor) -> Tensor:
    """The same values with the strides of a new tensor. ``contiguous`` would leave those of axes of size 1."""
    step, strides = 1, []
    for size in reversed(x.shape):
        strides.append(step)
        step *= size
    return x if x.stride() == tuple(reversed(strides)) else x.clone(memory_format=torch.contiguous_format)
