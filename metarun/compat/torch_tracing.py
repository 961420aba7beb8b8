"""How torch traces a function, and what it does with the graph: none of it is public. Last seen in torch 2.13."""

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

TORCH = ">=2.11,<2.14"  # as in pyproject.toml: whose make_fx takes what is given to it here


@contextmanager
def _this_torch() -> Iterator[None]:
    """A name or an argument that this torch does not have, as a ``UserError``."""
    try:
        yield
    except (TypeError, ImportError, AttributeError) as error:
        raise UserError(
            f"torch {torch.__version__}: metarun traces with torch{TORCH}, and this one differs ({error}); install one "
            "of those, or set device.compile=false (slower)"
        ) from error


# Imported where they are used: they take half a second and more, and not every command traces.


def tracer(fn: Callable[..., Any]) -> Callable[..., GraphModule]:
    """(tensors) -> the operations that ``fn`` runs on tensors of their shapes. ``fn`` does not run before.

    Raises ``UserError`` for a torch that traces otherwise.
    """
    with _this_torch():
        from torch.fx.experimental.proxy_tensor import make_fx

        settings: dict[str, Any] = {"_allow_non_fake_inputs": True, "_disable_torch_fn_metadata_mode": True}
        return make_fx(fn, tracing_mode="fake", **settings)


def without_repeats(graph: Graph) -> Graph:
    """The same graph, computing once what it computes twice from the same values. Raises ``UserError``."""
    with _this_torch():
        from torch._functorch.compile_utils import fx_graph_cse
    return fx_graph_cse(graph)


def inductor() -> Callable[[GraphModule, list[Tensor], bool], Callable[..., Any]]:
    """(graph, examples, whether through C++) -> machine code, by TorchInductor. Raises ``UserError``."""
    with _this_torch():
        from torch import _inductor

        compile = _inductor.compile
    return lambda graph, examples, cpp: compile(graph, examples, options={"cpp_wrapper": cpp})  # type: ignore[arg-type]


def writes(node: Node) -> bool:
    """Whether an operation changes an argument in place."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def foreseen(node: Node) -> Tensor:
    """A tensor without numbers that looks as the operation's result will."""
    return node.meta["val"]


# What errors say, where torch has no types for them, of functions that need the numbers in a tensor:
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
NO_TWIN = "There was no fake impl registered for"
COMPILED = "Detected that you are using FX to symbolically trace a dynamo-optimized function"


def untraceable(error: Exception) -> str | None:
    """What a function does that no torch can trace, in words; None for every other error that ended its tracing.

    Raises ``UserError`` for a torch without these types of errors.
    """
    with _this_torch():
        from torch._subclasses import fake_tensor
        from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

        of_numbers = (
            GuardOnDataDependentSymNode,
            fake_tensor.DataDependentOutputException,
            fake_tensor.DynamicOutputShapeException,
        )
        no_twin = fake_tensor.UnsupportedOperatorException
    text = str(error)
    if isinstance(error, of_numbers) or any(said in text for said in NUMBERS):
        return "looks at the values of tensors"
    if isinstance(error, no_twin) or NO_TWIN in text:
        return "calls an operator that does not say what its result looks like"
    return "has a part that torch.compile made" if COMPILED in text else None
