"""Tracing of functions and compiling of traces, which torch does not publish. Last seen in torch 2.13."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

from metarun.errors import UserError

__all__ = ["OpOverload"]

TORCH = ">=2.11,<2.14"  # as in pyproject.toml: make_fx takes these arguments from 2.11 on


@contextmanager
def _this_torch() -> Iterator[None]:
    """Raise ``UserError`` for a name or an argument that this version of torch does not have."""
    try:
        yield
    except (TypeError, ImportError, AttributeError) as error:
        raise UserError(
            f"torch {torch.__version__}: metarun traces with torch{TORCH}, and this one differs ({error}); install one "
            "of those, or set device.compile=false (slower)"
        ) from error


# The imports are inside the functions: they take half a second and more, and not every command traces.


def tracer(fn: Callable[..., Any]) -> Callable[..., GraphModule]:
    """Make the function that traces ``fn``; ``fn`` does not run yet.

    Args:
        fn: tensors in, list of tensors out.

    Returns:
        (tensors) -> the operations of ``fn`` for tensors of their shapes.

    Raises:
        UserError: this version of torch traces in another way.
    """
    with _this_torch():
        from torch.fx.experimental.proxy_tensor import make_fx

        settings: dict[str, Any] = {"_allow_non_fake_inputs": True, "_disable_torch_fn_metadata_mode": True}
        return make_fx(fn, tracing_mode="fake", **settings)


def without_repeats(graph: Graph) -> Graph:
    """Return the graph with equal expressions computed once. Raises ``UserError`` as ``tracer``."""
    with _this_torch():
        from torch._functorch.compile_utils import fx_graph_cse
    return fx_graph_cse(graph)


def inductor() -> Callable[[GraphModule, list[Tensor], bool], Callable[..., Any]]:
    """Return TorchInductor as (graph, examples, whether to generate C++) -> compiled. Raises ``UserError``."""
    with _this_torch():
        from torch import _inductor

        compile = _inductor.compile
    return lambda graph, examples, cpp: compile(graph, examples, options={"cpp_wrapper": cpp})  # type: ignore[arg-type]


def writes(node: Node) -> bool:
    """Return whether an operation changes an argument in place."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def foreseen(node: Node) -> Tensor:
    """Return a tensor without numbers that has the predicted shape, strides and type of an operation's result."""
    return node.meta["val"]


# Texts of errors without a type of their own, raised where a function reads the numbers in a tensor:
NUMBERS = (
    "Could not guard on data-dependent expression",  # from within TorchScript; elsewhere it has a type
    ".numpy() is not supported for tensor subclasses",
    "Cannot access data pointer of Tensor (",
    "The tensor has a non-zero number of elements, but its data is not allocated yet",
    "tolist() shouldn't be called on a tensor with unallocated storage",
    "Cannot call numel() on tensor with symbolic sizes/strides",
    "unsupported format string passed to FakeTensor.__format__",
    "unsupported format string passed to SymFloat.__format__",
)
NO_FAKE = "There was no fake impl registered for"
COMPILED = "Detected that you are using FX to symbolically trace a dynamo-optimized function"


def untraceable(error: Exception) -> str | None:
    """Explain why a function cannot be traced.

    Args:
        error: what tracing it raised.

    Returns:
        What the function does that torch cannot trace, in words; None: the error has another reason.

    Raises:
        UserError: this version of torch does not have these types of errors.
    """
    with _this_torch():
        from torch._subclasses import fake_tensor
        from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

        of_numbers = (
            GuardOnDataDependentSymNode,
            fake_tensor.DataDependentOutputException,
            fake_tensor.DynamicOutputShapeException,
        )
        no_fake = fake_tensor.UnsupportedOperatorException
    text = str(error)
    if isinstance(error, of_numbers) or any(said in text for said in NUMBERS):
        return "looks at the values of tensors"
    if isinstance(error, no_fake) or NO_FAKE in text:
        return "calls an operator that does not say what its result looks like"
    return "has a part that torch.compile made" if COMPILED in text else None
