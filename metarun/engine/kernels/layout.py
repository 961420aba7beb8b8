"""A mode that copies the input of some torch functions into the default memory layout.

The convolutions of kernels/ return tensors that are channels last in memory. torch's vmap cannot query the layout
("NYI: querying is_contiguous"), so group norm and the second derivative of max-pooling fail on such tensors. torch's
own batch norm has a wrong derivative there for volumes with one axis of size 1 (torch 2.13).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

VOLUMES = {F.batch_norm, torch.batch_norm}  # copied for volumes [N, C, D, H, W] only
_MAX = [
    f"{kind}max_pool{axes}d{where}" for kind in ("", "adaptive_") for axes in "123" for where in ("", "_with_indices")
]
PLAIN = {getattr(place, name) for place in (F, torch) for name in ("group_norm", *_MAX) if hasattr(place, name)}


class PlainLayout(TorchFunctionMode):
    """Context manager: functions of ``PLAIN`` and ``VOLUMES`` get a copy of an input in any other layout."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in PLAIN or func in VOLUMES:
            x, *rest = args or (kwargs.pop("input"),)
            if func in PLAIN or x.ndim == 5:
                x = plain(x)
            args = (x, *rest)
        return func(*args, **kwargs)


def plain(x: Tensor) -> Tensor:
    """Return the values with the strides of a new tensor, without a copy where they have these strides already.

    ``contiguous`` would keep other strides of axes of size 1.
    """
    step, strides = 1, []
    for size in reversed(x.shape):
        strides.append(step)
        step *= size
    return x if x.stride() == tuple(reversed(strides)) else x.clone(memory_format=torch.contiguous_format)
