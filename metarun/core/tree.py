"""Arithmetic on parameters: ``dict[str, Tensor]``, one entry per parameter, names as in ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Params = dict[str, Tensor]


def combine(fn: Callable[..., Tensor], *trees: Params) -> Params:
    """Apply ``fn`` entry by entry over the names of the first tree."""
    return {name: fn(*(tree[name] for tree in trees)) for name in trees[0]}


def detach(a: Params) -> Params:
    """The same values as constants, through which no derivative goes."""
    return combine(torch.detach, a)


def add(a: Params, b: Params) -> Params:
    return combine(torch.add, a, b)


def subtract(a: Params, b: Params) -> Params:
    return combine(torch.sub, a, b)


def scale(factor: Tensor | float, a: Params) -> Params:
    return combine(lambda x: factor * x, a)


def add_scaled(a: Params, factor: Tensor | float, b: Params) -> Params:
    """a + factor * b."""
    return combine(lambda x, y: x + factor * y, a, b)


def dot(a: Params, b: Params) -> Tensor:
    """Inner product over all entries, a scalar."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def norm(a: Params) -> Tensor:
    """Euclidean norm over all entries, a scalar."""
    return dot(a, a).sqrt()


def zeros_like(a: Params) -> Params:
    return combine(torch.zeros_like, a)
