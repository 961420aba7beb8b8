"""A model is a recipe: fields say which network, ``build`` makes it. And networks as pure functions."""

from __future__ import annotations

import abc
import contextlib
import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarun.core.purity import require_pure, seeded
from metarun.core.stateless import stateless
from metarun.core.tree import Params
from metarun.errors import UserError


@dataclass(kw_only=True, slots=True)
class Model(abc.ABC):
    """A network's settings. Input shape and outputs are facts of the data, so they arrive in ``build``."""

    @abc.abstractmethod
    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """A network from [B, *input_shape] to [B, outputs], initialised from torch's global generator.

        Raises ``UserError`` where the input shape does not fit the network.
        """


class Init(enum.Enum):
    """How weights start; biases are 0 except with ``torch``, which leaves PyTorch's own initialisation.

    xavier: Glorot uniform. xavier_wide: the same times 1.73, as the code published with iMAML. normal: N(0, 1).
    small: N(0, 0.01) cut off at two deviations.
    """

    torch = "torch"
    xavier = "xavier"
    xavier_wide = "xavier_wide"
    normal = "normal"
    small = "small"

    def apply(self, layer: nn.Linear | nn.Conv2d) -> None:
        if self is Init.torch:
            return
        if self is Init.xavier:
            nn.init.xavier_uniform_(layer.weight)
        elif self is Init.xavier_wide:
            nn.init.xavier_uniform_(layer.weight, gain=1.73)
        elif self is Init.normal:
            nn.init.normal_(layer.weight)
        else:
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def initialise(model: Model, input_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """Build a network whose first parameters depend on ``seed`` alone; the global generators stay as they were.

    Raises ``UserError`` for a network that is no pure function (purity.py). A second one, built alike, is tried out.
    """
    module, tried = (_build(model, input_shape, outputs, seed) for _ in range(2))
    for name, part in module.named_modules():
        if getattr(part, "track_running_stats", False):
            raise UserError(
                f"model: layer {name} keeps running statistics, a buffer that every forward pass writes to; "
                "build it with track_running_stats=False"
            )
    require_pure(tried, functional(tried), input_shape, outputs)
    return module


def count_parameters(model: Model, input_shape: tuple[int, ...], outputs: int) -> int:
    """How many numbers the network is going to learn, found without memory for them; 0 where it cannot be so built."""
    with contextlib.suppress(Exception), seeded(0), torch.device("meta"):
        return sum(p.numel() for p in model.build(input_shape, outputs).parameters())
    return 0


def _build(model: Model, input_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    with seeded(seed):
        return model.build(input_shape, outputs).train()


def functional(module: nn.Module) -> Callable[[Params, Tensor], Tensor]:
    """The network as forward(params, x); its buffers are constants.

    Attention is computed the plain way, since torch's fused kernels have no second derivative.
    """

    run = stateless(module)

    def forward(params: Params, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return run(params, x)

    return forward
