"""A Gaussian policy: a multi-layer perceptron for the mean of the action, and a standard deviation of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from metarun.core.acting import Acting
from metarun.core.problem import Problem
from metarun.errors import UserError, require
from metarun.models.base import Init, Model
from metarun.models.mlp import Activation

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
        require(all(1 <= width <= 10**6 for width in self.hidden), "hidden", self.hidden, "widths 1..1000000")
        require(self.std > 0, "std", self.std, "> 0")

    def check_problem(self, problem: Problem) -> None:
        if not isinstance(problem, Acting):
            raise UserError(NO_POLICY)

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if outputs % 2:
            raise UserError(NO_POLICY)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, width in pairwise([math.prod(input_shape), *self.hidden]):
            layers += [nn.Linear(before, width), self.activation.layer()]
        head = nn.Linear(self.hidden[-1] if self.hidden else math.prod(input_shape), outputs // 2)
        for layer in (*layers, head):
            if isinstance(layer, nn.Linear):
                self.init.apply(layer)
        return Policy(nn.Sequential(*layers), head, math.log(self.std))


class Policy(nn.Module):
    """A network for the mean, and log standard deviations that do not depend on its input.

    Args:
        body: layers from [B, O] to features.
        head: layer from features to the mean [B, A].
        log_std: first log standard deviation.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, log_std: float):
        super().__init__()
        self.body, self.head = body, head
        self.log_std = nn.Parameter(torch.full((head.out_features,), log_std))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.head(self.body(x))
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)
