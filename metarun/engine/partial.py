"""Partial evaluation of a trace: what does not depend on one of its arguments is computed once and kept.

The products of one linear map with many vectors, as conjugate gradient asks for them, have everything in common that
does not depend on the vector: activations, and derivatives of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node

from metarun.compat import torch_pytree as pytree
from metarun.compat.torch_tracing import writes
from metarun.engine.over_tasks import OverTasks, count
from metarun.engine.trace import ROUNDING, Trace, distance, traced

ROOM = 2**30  # bytes to keep between products; chunks that do not fit are computed whole each time


class LinearOverTasks(OverTasks):
    """Apply ((fixed, vector), one task) -> tensors to any number of tasks, for many vectors.

    Where the function is traced, the part of it that does not depend on the vector is computed once for each
    ``fixed``. The results have the same bits whether that part is kept or not. Arguments are those of ``OverTasks``.
    """

    def at(self, fixed: Any, tasks: Any) -> Callable[[Any], Iterator[Any]]:
        """Return vector -> the result of each chunk, in order.

        Args:
            fixed: what all tasks and vectors have in common.
            tasks: a pytree with leaves [T, ...].
        """
        kept: dict[int, list[Tensor]] = {}
        room = ROOM

        def apply(vector: Any) -> Iterator[Any]:
            nonlocal room
            for chunk, part in enumerate(self.engine.parts(tasks)):
                fn = self._for(count(tasks), (fixed, vector), part)
                if not isinstance(fn, Halves) or not fn.sound:
                    yield fn((fixed, vector), part)
                    continue
                first = kept.get(chunk)
                if first is None:
                    first = fn.first((fixed, vector), part)
                    size = _bytes(first) - _bytes(pytree.tree_leaves((fixed, part)))
                    if size <= room:
                        kept[chunk], room = first, room - size
                yield fn.second(first, (fixed, vector), part)

        return apply

    def _traced(self, plain: Callable[..., Any], shared: Any, part: Any) -> Callable[..., Any] | None:
        trace = traced(functionalize(plain), shared, part)  # without operations that write to a tensor
        if trace is None or any(writes(node) for node in trace.graph.graph.nodes):
            return None
        fixed, vector = shared
        sizes = [len(pytree.tree_leaves(tree)) for tree in (fixed, vector, part)]
        return Halves(plain, trace, [False] * sizes[0] + [True] * sizes[1] + [False] * sizes[2])


class Halves:
    """A traced function of ((fixed, vector), part) as two: what does not depend on the vector, and the rest.

    At first use the result is compared with the function's own. If they differ, the function depends on more than its
    arguments, and runs itself from then on.

    Args:
        fn: the function.
        trace: its trace.
        moving: for each tensor among the arguments, whether it belongs to the vector.
    """

    def __init__(self, fn: Callable[..., Any], trace: Trace, moving: list[bool]):
        self.fn, self.trace, self.moving = fn, trace, moving
        self._first, self._second = halves(trace.graph, moving)
        self._compared, self.sound = False, True

    def __call__(self, shared: Any, part: Any) -> Any:
        return self.second(self.first(shared, part), shared, part) if self.sound else self.fn(shared, part)

    def first(self, shared: Any, part: Any) -> list[Tensor]:
        """Compute what does not depend on the vector."""
        with torch.no_grad():
            return self._first(*self._inputs(False, shared, part))

    def second(self, first: list[Tensor], shared: Any, part: Any) -> Any:
        """Compute the rest."""

        def run() -> Any:
            with torch.no_grad():
                return self.trace.structured(self._second(*first, *self._inputs(True, shared, part)))

        result = run()
        if self._compared:
            return result
        self._compared, want = True, self.fn(shared, part)
        off = distance(result, want)
        if off > ROUNDING and off > 10 * distance(run(), result):  # how much a device varies
            warnings.warn(
                "device.compile: the kept part of a product gave other results than the product itself: they depend on "
                "Python state that the trace froze (a global, a counter, random numbers). Products run whole from here "
                "on; device.compile=false does so from the start",
                stacklevel=2,
            )
            self.sound = False
            return want
        return result

    def _inputs(self, moving: bool, *arguments: Any) -> list[Tensor]:
        leaves = self.trace.laid_out(pytree.tree_leaves(arguments))
        return [leaf for leaf, moves in zip(leaves, self.moving, strict=True) if moves is moving]


def halves(whole: GraphModule, moving: list[bool]) -> tuple[GraphModule, GraphModule]:
    """Divide a graph by whether its operations depend on some of its inputs.

    Args:
        whole: the graph; its operations write to no tensor.
        moving: for each input, whether what depends on it goes into the second part.

    Returns:
        (graph of the other inputs -> tensors, graph of these tensors and the moving inputs -> results of ``whole``).
    """
    inputs = [node for node in whole.graph.nodes if node.op == "placeholder"]
    dependent = {node for node, moves in zip(inputs, moving, strict=True) if moves}
    for node in whole.graph.nodes:
        if node.op == "output" or any(used in dependent for used in node.all_input_nodes):
            dependent.add(node)
    crossing = [n for n in whole.graph.nodes if n not in dependent and any(user in dependent for user in n.users)]
    first, second = Graph(), Graph()
    copies: dict[Node, Node] = {}
    for node in whole.graph.nodes:
        if node not in dependent:
            copies[node] = first.node_copy(node, copies.__getitem__)
    first.output([copies[node] for node in crossing])
    copies = {node: second.placeholder(f"kept_{i}") for i, node in enumerate(crossing)}
    for node in whole.graph.nodes:
        if node in dependent:
            copies[node] = second.node_copy(node, copies.__getitem__)
    return GraphModule(whole, first), GraphModule(whole, second)


def _bytes(tensors: list[Tensor]) -> int:
    """Memory behind some tensors; views of the same memory count once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
