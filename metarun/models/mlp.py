"""A multi-layer perceptron, for regression and for images taken as flat vectors."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from metarun.errors import require
from metarun.models.base import Init, Model


class Activation(enum.Enum):
    """Activation after each hidden layer."""

    relu = "relu"
    tanh = "tanh"

    def layer(self) -> nn.Module:
        """Make the layer."""
        return nn.ReLU() if self is Activation.relu else nn.Tanh()


@dataclass(kw_only=True, slots=True)
class MLP(Model):
    """A multi-layer perceptron.

    Attributes:
        hidden: width of each hidden layer.
        activation: activation after each hidden layer.
        norm: whether there is batch norm between each hidden layer and its activation.
        norm_gamma: whether batch norm has a learned scale besides its shift.
        norm_eps: added to the variance in batch norm.
        init: initialisation of all layers.
    """

    hidden: list[int]
    activation: Activation
    norm: bool
    norm_gamma: bool
    norm_eps: float
    init: Init

    def __post_init__(self) -> None:
        require(all(1 <= width <= 10**6 for width in self.hidden), "hidden", self.hidden, "widths 1..1000000")
        require(self.norm_eps > 0, "norm_eps", self.norm_eps, "> 0")

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, width in pairwise([math.prod(input_shape), *self.hidden]):
            layers.append(nn.Linear(before, width))
            if self.norm:
                norm = nn.BatchNorm1d(width, eps=self.norm_eps, track_running_stats=False)
                if not self.norm_gamma:  # a constant, not None, as in conv4.py
                    del norm.weight
                    norm.register_buffer("weight", torch.ones(width), persistent=False)
                layers.append(norm)
            layers.append(self.activation.layer())
        head = nn.Linear(self.hidden[-1] if self.hidden else math.prod(input_shape), outputs)
        for layer in (*layers, head):
            if isinstance(layer, nn.Linear):
                self.init.apply(layer)
        return nn.Sequential(OrderedDict(body=nn.Sequential(*layers), head=head))
