"""The vmap rule that the operations share: they have a task axis T already, so vmap's axis joins it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def lengthened(
    function: Any, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...], shared: int | None = None
) -> Any:
    """Apply ``function``, whose tensors lead with T (or 1), to arguments with a mapped axis at ``in_dims``.

    shared: position of an argument that may stay one for all tasks, and does so where it is not mapped.
    """
    tensors = [(a, dim) for a, dim in zip(arguments, in_dims, strict=True) if isinstance(a, Tensor)]
    tasks = max(a.shape[0] if dim is None else a.movedim(dim, 0).shape[1] for a, dim in tensors)
    joined = []
    for position, (a, dim) in enumerate(zip(arguments, in_dims, strict=True)):
        one_for_all = position == shared and dim is None and len(a) == 1
        if isinstance(a, Tensor) and not one_for_all:
            a = a.unsqueeze(0) if dim is None else a.movedim(dim, 0)
            a = a.expand(info.batch_size, tasks, *a.shape[2:]).flatten(0, 1)
        joined.append(a)
    out = function.apply(*joined)
    if isinstance(out, Tensor):
        return out.unflatten(0, (info.batch_size, tasks)), 0
    return tuple(o.unflatten(0, (info.batch_size, tasks)) for o in out), (0,) * len(out)
