"""A network as a function of its parameters."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call

from metarun.core.tree import Params


def stateless(module: nn.Module) -> Callable[[Params, Tensor], Tensor]:
    """The network as a function of its parameters and buffers by name; those that are not given stay as they are.

    Each is put once into every layer that has it. ``functional_call`` by itself goes by names, and in a layer that has
    two of them it leaves what it was given (torch 2.13).
    """
    names = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    places = {
        place: names[id(tensor)]
        for layer_name, layer in module.named_modules()
        for own in (layer.named_parameters, layer.named_buffers)
        for place, tensor in own(layer_name, recurse=False, remove_duplicate=False)
    }

    def forward(state: Params, x: Tensor) -> Tensor:
        given = {place: state[name] for place, name in places.items() if name in state}
        return functional_call(module, given, (x,), tie_weights=False)

    return forward
