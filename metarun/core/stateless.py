"""Turn a network into a function of its parameters."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call

from metarun.core.tree import Params


def stateless(module: nn.Module) -> Callable[[Params, Tensor], Tensor]:
    """Turn a network into a function (state, x) -> outputs.

    A tensor that several layers share is replaced in each of them. ``functional_call`` alone replaces by name, and does
    not restore a layer that has the same tensor under two names (torch 2.13).

    Args:
        module: the network; it keeps its own tensors.

    Returns:
        A function of parameters and buffers by name, and x [B, ...]. Tensors that are missing in its first argument
        keep the network's values.
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
