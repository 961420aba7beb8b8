"""Facts about a tensor that torch does not publish. Last seen in torch 2.13."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

__all__ = ["is_lazy", "is_wrapped", "times_written"]


def is_wrapped(x: Tensor) -> bool:
    """Return whether the tensor belongs to a transform (``vmap``, ``grad``), so that its numbers cannot be read."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def times_written(x: Tensor) -> int:
    """Return how often operations have changed the tensor in place."""
    return x._version
