"""Arithmetic on trees of tensors: parameters are a dict of tensors, meta-parameters a tuple of such dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Params = dict[str, Tensor]  # names as in ``nn.Module``
Tree = TypeVar("Tree")  # a dict of tensors, or a tuple of trees


def combine(fn: Callable[..., Tensor], first: Tree, *others: Any) -> Tree:
    """Apply ``fn`` to the corresponding tensors of several trees; the others have all names of the first."""
    if isinstance(first, dict):
        return {name: fn(value, *(other[name] for other in others)) for name, value in first.items()}  # type: ignore[return-value]
    assert isinstance(first, tuple)
    parts = [combine(fn, *part) for part in zip(first, *others, strict=True)]
    return type(first)(*parts)


def leaves(tree: Any) -> Iterator[Tensor]:
    """Yield every tensor, in order."""
    for part in tree.values() if isinstance(tree, dict) else tree:
        yield from [part] if isinstance(part, Tensor) else leaves(part)


def detach(a: Tree) -> Tree:
    """Return the same values as constants, without a gradient."""
    return combine(torch.detach, a)


def add(a: Tree, b: Tree) -> Tree:
    """Compute a + b."""
    return combine(torch.add, a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """Compute a - b."""
    return combine(torch.sub, a, b)


def scale(factor: Tensor | float, a: Tree) -> Tree:
    """Compute factor * a."""
    return combine(lambda x: factor * x, a)


def add_scaled(a: Tree, factor: Tensor | float, b: Tree) -> Tree:
    """Compute a + factor * b."""
    return combine(lambda x, y: x + factor * y, a, b)


def dot(a: Tree, b: Tree) -> Tensor:
    """Compute the inner product over all entries, a scalar."""
    return torch.stack([x.sum() for x in leaves(combine(torch.mul, a, b))]).sum()


def norm(a: Any) -> Tensor:
    """Compute the Euclidean norm over all entries, a scalar."""
    return dot(a, a).sqrt()


def zeros_like(a: Tree) -> Tree:
    """Make a tree of zeros of the same shapes."""
    return combine(torch.zeros_like, a)
