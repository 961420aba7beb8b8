"""Base class of models (settings from which ``build`` makes a network), and networks as pure functions."""

from __future__ import annotations

import abc
import contextlib
import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarun.core.problem import Problem
from metarun.core.purity import require_pure, seeded
from metarun.core.stateless import stateless
from metarun.core.tree import Params
from metarun.errors import UserError


@dataclass(kw_only=True, slots=True)
class Model(abc.ABC):
    """Settings of a network. Input shape and outputs depend on the data, so they are arguments of ``build``."""

    def check_problem(self, problem: Problem) -> None:  # noqa: B027
        """Raise ``UserError`` where the network's outputs mean nothing to such tasks; it is called before any work."""

    def known_as(self, name: str) -> str:
        """Return this network's name of a parameter that other code calls ``name``, for files that others wrote."""
        return name

    @abc.abstractmethod
    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Build a network, initialised from torch's global generator.

        Args:
            input_shape: shape of one example, such as (C, H, W).
            outputs: width of the last layer.

        Returns:
            A network from [B, *input_shape] to [B, outputs].

        Raises:
            UserError: the network cannot take this input shape.
        """


class Init(enum.Enum):
    """Initialisation of weights; biases are 0 except with ``torch``.

    Attributes:
        torch: PyTorch's own, also for biases.
        xavier: Glorot uniform.
        xavier_wide: Glorot uniform times 1.73, as in the code published with iMAML.
        normal: N(0, 1).
        small: normal with standard deviation 0.01, cut off at two deviations.
    """

    torch = "torch"
    xavier = "xavier"
    xavier_wide = "xavier_wide"
    normal = "normal"
    small = "small"

    def apply(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Initialise a layer in place."""
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
    """Build a network whose first parameters depend on ``seed`` alone; global generators are not changed.

    A second network, built in the same way, is run to check that it is pure (purity.py).

    Args:
        model: settings of the network.
        input_shape: shape of one example.
        outputs: width of the last layer.
        seed: seed of the first parameters.

    Returns:
        The network, in training mode.

    Raises:
        UserError: the network is not a pure function, or cannot take this input shape.
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
    """Count the network's parameters without allocating them; 0 if it cannot be built on torch's meta device."""
    with contextlib.suppress(Exception), seeded(0), torch.device("meta"):
        return sum(p.numel() for p in model.build(input_shape, outputs).parameters())
    return 0


def _build(model: Model, input_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    with seeded(seed):
        return model.build(input_shape, outputs).train()


def functional(module: nn.Module) -> Callable[[Params, Tensor], Tensor]:
    """Turn a network into a function (params, x [B, ...]) -> outputs [B, outputs]; its buffers are constants.

    Attention uses torch's plain implementation, since its fused kernels have no second derivative.
    """

    run = stateless(module)

    def forward(params: Params, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return run(params, x)

    return forward
