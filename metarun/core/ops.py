"""Batch norm on the batch's statistics, with ReLU and 2x2 max-pooling behind it, as one operation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function

from metarun.compat.torch_dispatch import has_torch_function_unary


def norm_relu_pool(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor:
    """Batch norm of x [N, C, H, W] with the statistics of this batch, then ReLU, then 2x2 max-pooling, as asked.

    Like torch's own functions it may be replaced by a ``TorchFunctionMode``; the native kernels' does.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(norm_relu_pool, (x,), x, gamma, beta, eps, relu, pool)
    x = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
    x = F.relu(x) if relu else x
    return F.max_pool2d(x, 2) if pool else x
