"""Trace a function of tensors once, then run the trace: the same operations without the Python code.

A trace is a list of torch operations for fixed shapes, without branches. Nested transforms (vmap of grad of grad) cost
more Python time than the arithmetic of small networks; with a trace that time is spent once. What Python did while
tracing is frozen in the trace: a global, a counter, a mode. ``Replay`` therefore compares the trace with its function
from time to time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from metarun.compat import torch_pytree as pytree
from metarun.compat.torch_tracing import OpOverload, foreseen, inductor, tracer, untraceable, without_repeats, writes
from metarun.errors import UserError, first_line
from metarun.out_of_memory import out_of_memory_in_one_line


class Trace:
    """The operations of a function, for arguments of the examples' shapes.

    Args:
        fn: any pytrees of tensors in, any pytree out.
        examples: one pytree for each argument.

    Raises:
        UserError: this version of torch has another interface than tracing needs.
        Exception: any error of ``fn``, and torch's errors for functions that cannot be traced (``traced`` knows them).
    """

    def __init__(self, fn: Callable[..., Any], *examples: Any):
        leaves, self._inputs = pytree.tree_flatten(examples)
        # strides without gaps or repeats, for examples that have them
        self._strides = [torch.empty_like(leaf).stride() for leaf in leaves]

        def flat(*tensors: Tensor) -> list[Any]:
            out, self._outputs = pytree.tree_flatten(fn(*pytree.tree_unflatten(list(tensors), self._inputs)))
            return out

        graph = tracer(flat)(*self.laid_out(leaves))
        if not any(writes(node) for node in graph.graph.nodes):  # else equal expressions need not have equal values
            graph.graph = without_repeats(graph.graph)
            _skip_round_trips(graph.graph)
        graph.graph.eliminate_dead_code()  # derivatives that no result needs
        for node in graph.graph.nodes:  # where strides differ from those that tracing predicted, a view must be a copy
            if node.target is _aten.view.default:
                node.target = _aten.reshape.default
        graph.recompile()
        self.operations = len(graph.graph.nodes)
        self.graph = graph
        self.machine_code: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        return self._run(self.machine_code or self.graph, arguments)

    def uncompiled(self, *arguments: Any) -> Any:
        """Run the trace without its machine code."""
        return self._run(self.graph, arguments)

    def _run(self, code: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        with torch.no_grad():
            leaves = self.laid_out(pytree.tree_leaves(arguments))
            return self.structured(code(*leaves))

    def structured(self, results: Iterable[Any]) -> Any:
        """Put the graph's results into the form of the function's."""
        return pytree.tree_unflatten(list(results), self._outputs)

    def laid_out(self, leaves: list[Tensor]) -> list[Tensor]:
        """Return the tensors with the strides of the examples; a tensor that has them already is not copied."""
        return [
            leaf if leaf.stride() == strides else leaf.new_empty_strided(leaf.shape, strides).copy_(leaf)
            for leaf, strides in zip(leaves, self._strides, strict=True)
        ]

    def compile(self, *examples: Any) -> None:
        """Compile the trace to machine code with TorchInductor (about twenty seconds).

        If that fails, for example without a C++ compiler, a warning says so and the trace runs as it is.
        """
        leaves = self.laid_out(pytree.tree_leaves(examples))
        on_cpu = all(leaf.device.type == "cpu" for leaf in leaves)
        compiler = inductor()
        try:
            with torch.no_grad():
                compiled = compiler(self.graph, leaves, on_cpu)
                compiled(*leaves)
        except Exception as error:  # of whatever kind: the trace gives the same results
            warnings.warn(
                f"device.compile: compiling failed ({first_line(error)}); the step runs uncompiled, which is slower "
                "and gives the same results",
                stacklevel=2,
            )
        else:
            self.machine_code = compiled


def traced(fn: Callable[..., Any], *examples: Any) -> Trace | None:
    """Trace a function, or warn that it cannot be traced.

    Args:
        fn: any pytrees of tensors in, any pytree out.
        examples: one pytree for each argument.

    Returns:
        The trace; None after a warning if ``fn`` does what torch cannot trace, such as control flow that depends on
        the values of tensors.

    Raises:
        UserError: tracing failed for any other reason. Only known reasons may make a run slow.
    """
    try:
        with out_of_memory_in_one_line():
            return Trace(fn, *examples)
    except UserError:
        raise
    except Exception as error:
        said, reason = first_line(error), untraceable(error)
        if reason is None:
            kind = type(error).__name__
            raise UserError(
                f"device.compile: tracing failed ({said if said == kind else f'{kind}: {said}'}); set "
                "device.compile=false to run without a trace (slower); --debug shows the traceback"
            ) from error
        warnings.warn(
            f"device.compile: the network {reason}, so the step runs untraced, which is slower and gives the same "
            f"results ({said})",
            stacklevel=2,
        )
        return None


class Replay:
    """A function that runs its trace as long as both give the same results.

    They are compared at calls 2, 4, 8, ... If the results differ, they depend on more than the arguments: this call
    returns the function's result, and later calls run the function. If they agree, the call returns the trace's result,
    so that results do not depend on which calls are compared (a resumed run counts from 1 again).

    Args:
        fn: the function.
        trace: its trace.
    """

    def __init__(self, fn: Callable[..., Any], trace: Trace):
        self.fn, self.calls = fn, 0
        self.trace: Trace | None = trace

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.trace is None:
            return self.fn(*arguments)
        if self.calls == 1 or self.calls & (self.calls - 1):  # no power of two
            return self.trace(*arguments)
        return self._compared(self.trace, arguments)

    def _compared(self, trace: Trace, arguments: tuple[Any, ...]) -> Any:
        want, uncompiled = self.fn(*arguments), trace.uncompiled(*arguments)
        off = distance(uncompiled, want)
        if off > ROUNDING and off > 10 * distance(trace.uncompiled(*arguments), uncompiled):  # how much a device varies
            warnings.warn(
                f"device.compile: at call {self.calls} the trace gave other results than the step itself: they depend "
                "on Python state that the trace froze (a global, a counter, random numbers). The step runs untraced "
                "from here on; device.compile=false does so from the start",
                stacklevel=2,
            )
            self.trace = None
            return want
        if trace.machine_code is None:
            return uncompiled
        got = trace(*arguments)
        if distance(got, uncompiled) > MACHINE_CODE:
            warnings.warn(
                f"device.compile: TorchInductor's machine code gave wrong results at call {self.calls}; "
                "the trace runs uncompiled from here on",
                stacklevel=2,
            )
            trace.machine_code = None
            return uncompiled
        return got


# Units in the last place. A trace repeats its function's operations: the five methods that were measured agree to
# the bit on a CPU, or within 7 units where memory lies otherwise, and the conformance suite holds every method to a
# fiftieth of the limit; a GPU may add in any order, and loops make more of it. Machine code rounds otherwise (8 units
# seen, of MAML and Reptile on the sinusoid), may tip a prediction over, and is far off where it is wrong.
ROUNDING, MACHINE_CODE = 2**10, 2**21  # in float32 0.0001 and 0.25
SMALL = 1e-3  # share of all results under which one of them may be rounding and nothing else


def distance(got: Any, want: Any) -> float:
    """Return the largest relative error of any tensor in a pytree, in units of its type's last place.

    NaN equals NaN. Infinity if structure, shapes, types or values that are not floating point differ.
    """
    (left, kind), (right, other) = pytree.tree_flatten(got), pytree.tree_flatten(want)
    if kind != other or not all(map(_alike, left, right)):
        return math.inf
    pairs = [(a.detach(), b.detach()) for a, b in zip(left, right, strict=True) if _is_number(b)]
    sizes = [b.double().nan_to_num(0, 0, 0).norm().item() for _, b in pairs]
    worst = 0.0
    for (a, b), size in zip(pairs, sizes, strict=True):
        equal = (a == b) | (a.isnan() & b.isnan())
        error = (a.double() - b.double()).masked_fill(equal, 0).norm().item()
        if error != 0:
            scale = (size + SMALL * math.hypot(*sizes)) * torch.finfo(b.dtype).eps
            worst = max(worst, error / scale if math.isfinite(error) and scale > 0 else math.inf)
    return worst


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _alike(a: Any, b: Any) -> bool:
    """Return whether two leaves can be compared as floating-point numbers; leaves of another kind must be equal."""
    if _is_number(b):
        return isinstance(a, Tensor) and a.dtype == b.dtype and a.shape == b.shape
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


_aten = torch.ops.aten
VIEWS = {
    *(_aten.view, _aten.expand, _aten.permute, _aten.unsqueeze, _aten.squeeze),
    *(_aten.transpose, _aten.t, _aten.alias, _aten.detach),
}


def _skip_round_trips(graph: Graph) -> None:
    """Remove chains of views that end with the layout they began with.

    Batching rules make many of them, and each takes microseconds.
    """

    def layout(node: Node) -> Any:
        value = foreseen(node)
        lies = [(size, step) for size, step in zip(value.shape, value.stride(), strict=True) if size != 1]
        if any(step == 0 for _, step in lies):  # axes that repeat the same memory can change places unnoticed
            return node
        return value.shape, lies, value.storage_offset(), value.dtype

    for node in graph.nodes:
        here = node
        while isinstance(here.target, OpOverload) and here.target.overloadpacket in VIEWS:
            here = here.args[0]
            if layout(here) == layout(node):
                node.replace_all_uses_with(here)
                break
