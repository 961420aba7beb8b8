"""Batch norm on the batch's statistics, then ReLU and 2x2 max-pooling, as one operation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function

from metarun.compat.torch_dispatch import has_torch_function_unary


def norm_relu_pool(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor:
    """Normalise a batch by its own statistics, then optionally apply ReLU and 2x2 max-pooling.

    A ``TorchFunctionMode`` can replace it, like torch's own functions; the native kernels do.

    Args:
        x: [B, C, H, W].
        gamma: [C] scale.
        beta: [C] shift.
        eps: added to the variance.
        relu: whether ReLU follows.
        pool: whether max-pooling follows.

    Returns:
        [B, C, H, W], or [B, C, H // 2, W // 2] with ``pool``.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(norm_relu_pool, (x,), x, gamma, beta, eps, relu, pool)
    x = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
    x = F.relu(x) if relu else x
    return F.max_pool2d(x, 2) if pool else x
