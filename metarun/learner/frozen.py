"""A network as an ordinary one in ``eval()``: one task's values in it, and the support set's statistics in batch norm.

Its outputs are those of ``Norm.support``, and an output depends on its own example alone.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metarun.core.tree import Params
from metarun.errors import UserError
from metarun.models.base import functional

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ROUNDING = 1e-3  # largest difference from the network's own outputs for the support set, relative to the largest output


def freeze(module: nn.Module, values: Params, support_x: Tensor) -> nn.Module:
    """Make the frozen network of one adapted task.

    Args:
        module: the network that was trained; it stays as it is.
        values: the task's parameters, and buffers if any, by name.
        support_x: [N*K, ...] support examples.

    Returns:
        A new network without gradients. The statistics of each batch norm are those of the support examples that
        reach it: mean and biased variance.

    Raises:
        UserError: the network uses batch statistics in another way than by torch's batch norm layers, once each.
    """
    frozen = restore(module, values)
    hooks = [layer.register_forward_pre_hook(_take) for layer in frozen.modules() if isinstance(layer, NORMS)]
    with torch.no_grad():
        outputs = frozen(support_x)
        for hook in hooks:
            hook.remove()
        own = functional(module)(values, support_x)
        among = frozen(torch.cat([support_x, 2 * support_x + 1]))[: len(support_x)]  # among examples of another kind
    apart = max(float((other - own).abs().max()) for other in (outputs, among))
    if not apart <= ROUNDING * float(own.abs().max()):
        raise UserError(
            f"model: as a frozen network it gives other outputs for the support set (they differ by {apart:.2g}): it "
            "uses batch statistics in another way than by batch norm layers of torch.nn, once each"
        )
    return frozen


def restore(module: nn.Module, values: Params) -> nn.Module:
    """Make a frozen network of known values.

    Args:
        module: the network that was trained; it stays as it is.
        values: values by name, of other shapes too; the network keeps what is missing.
    """
    frozen = copy.deepcopy(module).eval()
    for layer in frozen.modules():
        if isinstance(layer, NORMS):
            _open(layer)
    fill(frozen, values)
    return frozen.requires_grad_(False)


def held(module: nn.Module) -> Params:
    """Return all parameters and buffers of a network by name, also buffers that ``state_dict`` leaves out."""
    return {name: value.detach() for name, value in (*module.named_parameters(), *module.named_buffers())}


def fill(module: nn.Module, values: Params) -> None:
    """Put values into a network in place; a tensor that several layers share is replaced in each of them."""
    before = (*module.named_parameters(), *module.named_buffers())
    names = {id(tensor): name for name, tensor in before}
    made: Params = {}
    for layer in module.modules():
        for own in (layer.named_parameters, layer.named_buffers):
            for leaf, tensor in list(own(recurse=False, remove_duplicate=False)):
                name = names[id(tensor)]
                if name not in values:
                    continue
                if name not in made:
                    value = values[name].detach().clone().to(tensor.device)
                    made[name] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
                setattr(layer, leaf, made[name])
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape


def _open(layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> None:
    """Give a batch norm layer statistics, and parameters where it has constants: then it is as torch makes one."""
    for name in ("weight", "bias"):
        value = getattr(layer, name)
        if value is not None and not isinstance(value, nn.Parameter):
            delattr(layer, name)
            setattr(layer, name, nn.Parameter(value.detach().clone()))
    like = next(layer.parameters(), torch.zeros(0))
    layer.track_running_stats = True
    layer.running_mean = torch.zeros(layer.num_features, dtype=like.dtype, device=like.device)
    layer.running_var = torch.ones(layer.num_features, dtype=like.dtype, device=like.device)
    layer.num_batches_tracked = torch.zeros((), dtype=torch.long, device=like.device)


def _take(layer: nn.Module, inputs: tuple[Tensor]) -> None:
    """Set the statistics of a batch norm layer to those of its input, just before it uses them."""
    assert isinstance(layer, NORMS) and layer.running_mean is not None and layer.running_var is not None
    (x,) = inputs
    variance, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
