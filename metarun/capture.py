"""Record what a function of tensors computes once, then run the recording: the same operations without the Python.

A captured function is a straight list of torch operations for fixed shapes. Nested transforms (vmap of grad of grad)
cost more Python time than the arithmetic of small networks; the recording pays that once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree


class Captured:
    """``fn`` for arguments shaped like ``examples``: any nest of tensors in, any nest out.

    Raises whatever ``fn`` raises, and torch's errors for what cannot be recorded: control flow that depends on
    the values of tensors.
    """

    def __init__(self, fn: Callable[..., Any], *examples: Any):
        # half a second to import, and not every command records
        from torch._functorch.compile_utils import fx_graph_cse
        from torch.fx.experimental.proxy_tensor import make_fx

        leaves, self._inputs = pytree.tree_flatten(examples)
        # dense strides, where an example repeats memory or leaves gaps
        self._strides = [torch.empty_like(leaf).stride() for leaf in leaves]

        def flat(*tensors: Tensor) -> list[Any]:
            out, self._outputs = pytree.tree_flatten(fn(*pytree.tree_unflatten(list(tensors), self._inputs)))
            return out

        made = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True, _disable_torch_fn_metadata_mode=True)
        graph = made(*self._laid_out(leaves))
        if not any(_writes(node) for node in graph.graph.nodes):
            graph.graph = fx_graph_cse(graph.graph)  # what is computed twice from the same values
            _skip_round_trips(graph.graph)
        graph.graph.eliminate_dead_code()  # derivatives that nothing asks for
        for node in graph.graph.nodes:  # a view of memory that lies otherwise than tracing foresaw has to be a copy
            if node.target is _aten.view.default:
                node.target = _aten.reshape.default
        graph.recompile()
        self.operations = len(graph.graph.nodes)
        self._run: Callable[..., Any] = graph

    def __call__(self, *arguments: Any) -> Any:
        with torch.no_grad():
            leaves = self._laid_out(pytree.tree_leaves(arguments))
            return pytree.tree_unflatten(list(self._run(*leaves)), self._outputs)

    def _laid_out(self, leaves: list[Tensor]) -> list[Tensor]:
        """With the strides that were recorded: no copy where a tensor has them."""
        return [
            leaf if leaf.stride() == strides else leaf.new_empty_strided(leaf.shape, strides).copy_(leaf)
            for leaf, strides in zip(leaves, self._strides, strict=True)
        ]

    def compile(self, *examples: Any) -> None:
        """Turn the recording into machine code with TorchInductor (about twenty seconds).

        Where that fails, for want of a C++ compiler for instance, a warning says so and the recording stays.
        """
        leaves = self._laid_out(pytree.tree_leaves(examples))
        on_cpu = all(leaf.device.type == "cpu" for leaf in leaves)
        try:
            from torch import _inductor  # takes a second to import

            with torch.no_grad():
                compiled: Any = _inductor.compile(self._run, leaves, options={"cpp_wrapper": on_cpu})  # type: ignore[arg-type]
                compiled(*leaves)
        except Exception as error:  # whatever the compiler does, the recording is as right
            reason = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(f"device.compile: not compiled, only slower for it ({reason[0]})", stacklevel=2)
        else:
            self._run = compiled


_aten = torch.ops.aten
VIEWS = {
    *(_aten.view, _aten.expand, _aten.permute, _aten.unsqueeze, _aten.squeeze),
    *(_aten.transpose, _aten.t, _aten.alias, _aten.detach),
}


def _writes(node: Node) -> bool:
    """Whether an operation changes an argument in place: then equal expressions need not have equal values."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _skip_round_trips(graph: Graph) -> None:
    """Views of views that end where one of them began; batching rules leave many, and each costs microseconds."""

    def layout(node: Node) -> Any:
        value = node.meta["val"]
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
