"""What torch knows of a tensor and does not publish. Last seen in torch 2.13."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

__all__ = ["is_lazy", "is_wrapped", "times_written"]


def is_wrapped(x: Tensor) -> bool:
    """Whether a transform (``vmap``, ``grad``) stands between this tensor and its numbers."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def times_written(x: Tensor) -> int:
    """How often an operation has changed the tensor in place."""
    return x._version
