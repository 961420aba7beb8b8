"""A network as a Python file that needs torch alone, written from a trace of it by ``torch.fx``."""

from __future__ import annotations

import builtins
import copy
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, fx, nn

from metarun.core.tree import Params
from metarun.errors import UserError, first_line
from metarun.learner.frozen import held

CLASS = "Network"
HEAD = """\
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
"""
RELEASED = re.compile(r";  (?:\w+ = )+None")  # torch.fx lets go of each value after its last use
NUMBERED = re.compile(r'getattr\((self[\w.\[\]]*), "(\d+)"\)')


@dataclass(frozen=True)
class Plain:
    """A network in torch's own layers.

    Attributes:
        source: a Python file with the class ``Network``.
        weights: its ``state_dict``, with the names that they have in the network that it was made of.
    """

    source: str
    weights: Params


def plain(module: nn.Module) -> Plain:
    """Write a network in torch's own layers and functions.

    Args:
        module: the network, in ``eval()``, on the CPU; it stays as it is.

    Raises:
        UserError: it cannot be written so.
    """
    try:
        traced = copy.deepcopy(module)  # a trace adds to its network what it computed from constants
        graph = fx.Tracer().trace(traced)
        _keep_constants(traced, graph)
        source = f"{HEAD}{''.join(_layers(traced))}\n{_forward(graph)}"
        made, values = build(source), held(traced)
        weights = {name: values[name].clone() for name in made.state_dict()}
        made.load_state_dict(weights)
    except Exception as error:  # of any kind: it depends on what the network does
        said = f"the network cannot be written in torch's own layers ({first_line(error)})"
        raise UserError(f"format: {said}; torch_export and onnx need no such file") from error
    return Plain(source, weights)


def build(source: str) -> nn.Module:
    """Run the source and make its network, with new parameters."""
    names: dict[str, type[nn.Module]] = {}
    exec(compile(source, "network.py", "exec"), names)
    return names[CLASS]().eval()


def _keep_constants(traced: nn.Module, graph: fx.Graph) -> None:
    """Make buffers of the tensors that a trace found to be constants."""
    known = held(traced)
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and name not in known and "." not in name:
            value = getattr(traced, name)
            delattr(traced, name)
            traced.register_buffer(name, value)
            known[name] = value


def _layers(module: nn.Module) -> Iterator[str]:
    """Lines of ``__init__``: the layers, then parameters and buffers that are no layer's."""
    for name, layer in module.named_children():
        yield f"        self.{name} = {_written(layer, 8)}\n"
    for place, owner in module.named_modules():
        if _is_layer(owner):
            continue
        path = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f"self.{place}" if place else "self")
        for name, value in owner.named_parameters(recurse=False):
            yield f"        {path}.register_parameter({name!r}, nn.Parameter({_zeros(value)}))\n"
        for name, value in owner.named_buffers(recurse=False):
            yield f"        {path}.register_buffer({name!r}, {_zeros(value)})\n"


def _written(layer: nn.Module, indent: int) -> str:
    """A layer as an expression; torch's own layers show the arguments that make them."""
    if _is_layer(layer):
        return f"nn.{layer!r}".replace(", bias=True", "")  # the default, which older versions of some layers lack
    children, inside = dict(layer.named_children()), " " * (indent + 4)
    if not children:
        return "nn.Module()"  # it holds tensors, or does what the trace has in its place
    listed = list(children) == [str(i) for i in range(len(children))]
    lines = [
        f"{inside}{'' if listed else f'{name!r}: '}{_written(child, indent + 4)},\n" for name, child in children.items()
    ]
    begin, end = ("nn.Sequential(\n", ")") if listed else ("nn.ModuleDict({\n", "})")
    return f"{begin}{''.join(lines)}{' ' * indent}{end}"


def _is_layer(module: nn.Module) -> bool:
    """Whether it is one of torch's layers, which a trace does not look into."""
    of, containers = type(module), (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return of.__module__.startswith("torch.nn.") and of is not nn.Module and not isinstance(module, containers)


def _zeros(value: Tensor) -> str:
    return f"torch.zeros({tuple(value.shape)}, dtype={value.dtype})"


def _forward(graph: fx.Graph) -> str:
    """The trace as the method ``forward``."""
    for node in graph.nodes:
        node.type = None
    body = RELEASED.sub("", graph.python_code("self").src).strip()
    (function,) = symtable.symtable(body, "network.py", "exec").get_children()
    used = {symbol.get_name() for symbol in function.get_symbols() if symbol.is_global()}
    if foreign := used - {"torch", *vars(builtins)}:
        raise UserError(f"it calls {', '.join(sorted(foreign)[:3])}")
    while (shorter := NUMBERED.sub(r"\1[\2]", body)) != body:
        body = shorter
    return "".join(f"    {line.rstrip()}\n" for line in body.splitlines())
