"""A Gaussian policy: a multi-layer perceptron for the mean of the action, and a standard deviation of its own."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarun.core.acting import Acting
from metarun.core.problem import Problem
from metarun.errors import UserError, require
from metarun.models.base import Init, Model
from metarun.models.mlp import MLP, Activation

NO_POLICY = "model=gaussian_mlp: its outputs are a policy's; it needs tasks to act in, as those of dataset=navigation"


@dataclass(kw_only=True, slots=True)
class GaussianMLP(Model):
    """The policy of the MAML paper's reinforcement learning: outputs are (mean, log standard deviation).

    The log standard deviation does not depend on the observation; it is a parameter, learned and adapted like others.

    Attributes:
        hidden: width of each hidden layer.
        activation: activation after each hidden layer.
        init: initialisation of all layers.
        std: first standard deviation of each action, > 0.
    """

    hidden: list[int]
    activation: Activation
    init: Init
    std: float

    def __post_init__(self) -> None:
        require(self.std > 0, "std", self.std, "> 0")
        self.mean()  # refuses its settings

    def mean(self) -> MLP:
        """Return the settings of the network for the mean."""
        return MLP(
            hidden=self.hidden, activation=self.activation, norm=False, norm_gamma=True, norm_eps=1e-5, init=self.init
        )

    def check_problem(self, problem: Problem) -> None:
        if not isinstance(problem, Acting):
            raise UserError(NO_POLICY)

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if outputs % 2:
            raise UserError(NO_POLICY)
        actions = outputs // 2
        return Policy(self.mean().build(input_shape, actions), actions, math.log(self.std))


class Policy(nn.Sequential):
    """A network for the mean, and log standard deviations that do not depend on its input.

    Args:
        mean: network from [B, O] to the mean [B, A]; its layers keep their names.
        actions: A.
        log_std: first log standard deviation.
    """

    def __init__(self, mean: nn.Module, actions: int, log_std: float):
        super().__init__(OrderedDict(mean.named_children()))
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, x: Tensor) -> Tensor:
        mean = super().forward(x)
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)
