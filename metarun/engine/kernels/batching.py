"""The vmap rule of the operations here: they have a task axis T already, and vmap's axis is merged into it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def lengthened(
    function: Any, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...], shared: int | None = None
) -> Any:
    """Apply an operation to arguments with a vmap axis, by merging that axis into the task axis T.

    Args:
        function: the autograd function. Its tensors are [T, ...], or [1, ...] for the argument at ``shared``.
        info: torch's description of the vmap; ``info.batch_size`` is the length of its axis.
        in_dims: position of vmap's axis in each argument; None: the argument has none.
        arguments: the arguments of ``function``.
        shared: position of the argument that one value may serve for all tasks. It stays one where vmap does not map
            it. None: there is no such argument.

    Returns:
        The result and the position of vmap's axis in it, as ``torch.autograd.Function.vmap`` must return them.
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
