"""Which statistics batch norm uses for the query set at evaluation: the setting that moves few-shot numbers most.

While adapting, batch norm always uses the statistics of the support batch. Batch norm here means torch's
``nn.BatchNorm*d`` layers; a layer of another kind that mixes examples is always transductive.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from metarun.tree import Params


class Norm(enum.Enum):
    """Statistics for the query images.

    transductive: of the query batch, so that a prediction depends on the other queries (MAML). support: of the
    support set. support_plus_one: of the support set and the one query image, each query alone (Reptile).
    all: each of the three, side by side.
    """

    transductive = "transductive"
    support = "support"
    support_plus_one = "support_plus_one"
    all = "all"

    def members(self, module: nn.Module) -> list[Norm]:
        """The norms to evaluate for a network; one is enough where there is no batch norm to tell them apart."""
        if self is not Norm.all:
            return [self]
        return [n for n in Norm if n is not Norm.all] if normalizes(module) else [Norm.transductive]


def normalizes(module: nn.Module) -> bool:
    """Whether the network has batch norm at all."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def predict(module: nn.Module, params: Params, support_x: Tensor, query_x: Tensor, norm: Norm) -> Tensor:
    """Outputs [N*Q, outputs] for one task's query set under ``norm`` (not ``all``)."""
    if norm is Norm.transductive or not normalizes(module):
        return functional_call(module, params, (query_x,))
    if norm is Norm.support:
        with _statistics_of_first(module, len(support_x)):
            return functional_call(module, params, (torch.cat([support_x, query_x]),))[len(support_x) :]

    def alone(x: Tensor) -> Tensor:
        return functional_call(module, params, (torch.cat([support_x, x[None]]),))[-1]

    return vmap(alone, chunk_size=5)(query_x)  # all at once is 2 to 4 times slower on a CPU: too much fresh memory


@contextmanager
def _statistics_of_first(module: nn.Module, rows: int) -> Iterator[None]:
    """Within, batch norm takes mean and variance of the first ``rows`` of its batch and normalises all of it."""

    def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        assert isinstance(layer, _BatchNorm)
        (x,) = inputs
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        variance, mean = torch.var_mean(x[:rows], axes, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + layer.eps)
        if layer.weight is not None:
            x = x * layer.weight.reshape(shape)
        return x if layer.bias is None else x + layer.bias.reshape(shape)

    with ExitStack() as hooks:
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                hooks.enter_context(layer.register_forward_hook(hook))
        yield
