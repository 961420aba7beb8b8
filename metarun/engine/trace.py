"""Trace what a function of tensors computes once, then run the trace: the same operations without the Python.

A trace is a straight list of torch operations for fixed shapes. Nested transforms (vmap of grad of grad) cost more
Python time than the arithmetic of small networks; the trace pays that once. What Python did is frozen in it: a global,
a counter, a mode. So ``Replay`` holds the trace against its function now and then.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from metarun.compat import torch_pytree as pytree
from metarun.compat.torch_tracing import OpOverload, foreseen, inductor, tracer, untraceable, without_repeats, writes
from metarun.errors import UserError, first_line
from metarun.out_of_memory import out_of_memory_in_one_line


class Trace:
    """``fn`` for arguments shaped like ``examples``: any nest of tensors in, any nest out.

    Raises whatever ``fn`` raises, and torch's errors for what cannot be traced: control flow that depends on
    the values of tensors. ``UserError`` where this torch has another interface than tracing needs.
    """

    def __init__(self, fn: Callable[..., Any], *examples: Any):
        leaves, self._inputs = pytree.tree_flatten(examples)
        # dense strides, where an example repeats memory or leaves gaps
        self._strides = [torch.empty_like(leaf).stride() for leaf in leaves]

        def flat(*tensors: Tensor) -> list[Any]:
            out, self._outputs = pytree.tree_flatten(fn(*pytree.tree_unflatten(list(tensors), self._inputs)))
            return out

        graph = tracer(flat)(*self._laid_out(leaves))
        if not any(writes(node) for node in graph.graph.nodes):  # else equal expressions need not have equal values
            graph.graph = without_repeats(graph.graph)
            _skip_round_trips(graph.graph)
        graph.graph.eliminate_dead_code()  # derivatives that nothing asks for
        for node in graph.graph.nodes:  # a view of memory that lies otherwise than tracing foresaw has to be a copy
            if node.target is _aten.view.default:
                node.target = _aten.reshape.default
        graph.recompile()
        self.operations = len(graph.graph.nodes)
        self._graph = graph
        self.machine_code: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        return self._run(self.machine_code or self._graph, arguments)

    def uncompiled(self, *arguments: Any) -> Any:
        """What the trace itself gives, where there is machine code for it."""
        return self._run(self._graph, arguments)

    def _run(self, code: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        with torch.no_grad():
            leaves = self._laid_out(pytree.tree_leaves(arguments))
            return pytree.tree_unflatten(list(code(*leaves)), self._outputs)

    def _laid_out(self, leaves: list[Tensor]) -> list[Tensor]:
        """With the strides that were traced: no copy where a tensor has them."""
        return [
            leaf if leaf.stride() == strides else leaf.new_empty_strided(leaf.shape, strides).copy_(leaf)
            for leaf, strides in zip(leaves, self._strides, strict=True)
        ]

    def compile(self, *examples: Any) -> None:
        """Turn the trace into machine code with TorchInductor (about twenty seconds).

        Where that fails, for want of a C++ compiler for instance, a warning says so and the trace stays.
        """
        leaves = self._laid_out(pytree.tree_leaves(examples))
        on_cpu = all(leaf.device.type == "cpu" for leaf in leaves)
        compiler = inductor()
        try:
            with torch.no_grad():
                compiled = compiler(self._graph, leaves, on_cpu)
                compiled(*leaves)
        except Exception as error:  # whatever the compiler does, the trace is as right
            warnings.warn(f"device.compile: not compiled, only slower for it ({first_line(error)})", stacklevel=2)
        else:
            self.machine_code = compiled


def traced(fn: Callable[..., Any], *examples: Any) -> Trace | None:
    """``fn`` as a ``Trace``; None, with a warning, where it does what cannot be traced, such as look at values.

    Raises ``UserError`` for every other failure: a slow run must have a reason that is known.
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
                f"device.compile: tracing failed ({said if said == kind else f'{kind}: {said}'}); device.compile=false "
                "does without (slower), and --debug shows where"
            ) from error
        warnings.warn(
            f"device.compile: the network {reason}, so it runs untraced: slower, with the same results ({said})",
            stacklevel=2,
        )
        return None


class Replay:
    """A trace in the place of its function, as long as they agree.

    They are compared at the 2nd, 4th, 8th, ... call. Where results have come to depend on something else than the
    arguments, the function runs from then on, and its result is that call's. Where they agree the result is the
    trace's, so that it does not matter at which calls they are compared: a run that is resumed counts from 1 again.
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
                f"device.compile: a trace gave other results at call {self.calls} than what it was made from: they "
                "depend on Python state that it froze (a global, a counter, random numbers). It runs untraced from "
                "here on; device.compile=false does so from the start",
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
                "the trace runs without it from here on",
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
    """The largest relative error of a tensor in a nest, in units of its type's last place; NaN equals NaN."""
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
    """Whether two leaves can be compared as numbers; what is none must be equal."""
    if _is_number(b):
        return isinstance(a, Tensor) and a.dtype == b.dtype and a.shape == b.shape
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


_aten = torch.ops.aten
VIEWS = {
    *(_aten.view, _aten.expand, _aten.permute, _aten.unsqueeze, _aten.squeeze),
    *(_aten.transpose, _aten.t, _aten.alias, _aten.detach),
}


def _skip_round_trips(graph: Graph) -> None:
    """Views of views that end where one of them began; batching rules leave many, and each costs microseconds."""

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
