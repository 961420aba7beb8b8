"""Conv4: four blocks of 3x3 convolution, batch norm and ReLU, then a linear head.

The network of Vinyals et al. 2016. Nearly every few-shot paper uses it, with different details; the details are fields.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from metarun.core.ops import norm_relu_pool
from metarun.errors import UserError, require, require_count
from metarun.models.base import Init, Model


class Downsample(enum.Enum):
    """How each block halves height and width.

    Attributes:
        stride: convolution of stride 2.
        max_pool: 2x2 max-pooling after the ReLU; an odd last row or column is dropped.
        max_pool_same: the same; an odd last row or column is kept (TensorFlow's SAME).
    """

    stride = "stride"
    max_pool = "max_pool"
    max_pool_same = "max_pool_same"


class Features(enum.Enum):
    """Input of the head, from the last block's output [B, filters, h, w]: its mean over h and w, or all of it."""

    mean = "mean"
    flatten = "flatten"


@dataclass(kw_only=True, slots=True)
class Conv4(Model):
    """Four convolution blocks and a linear head.

    Attributes:
        filters: channels of each block.
        downsample: how each block halves height and width.
        features: input of the head.
        norm_gamma: whether batch norm has a learned scale besides its shift.
        norm_eps: added to the variance in batch norm.
        init: initialisation of the convolutions.
        head_init: initialisation of the head.
    """

    filters: int
    downsample: Downsample
    features: Features
    norm_gamma: bool
    norm_eps: float
    init: Init
    head_init: Init

    def __post_init__(self) -> None:
        require_count("filters", self.filters, most=10**5)
        require(self.norm_eps > 0, "norm_eps", self.norm_eps, "> 0")

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(input_shape) != 3:
            raise UserError(
                f"model=conv4 needs images, but the data set's inputs have shape {input_shape}; use model=mlp"
            )
        strided = self.downsample is Downsample.stride
        channels, *sides = input_shape
        blocks: list[nn.Module] = []
        for i in range(4):
            conv = nn.Conv2d(  # no bias: batch norm subtracts it
                channels if i == 0 else self.filters,
                self.filters,
                3,
                stride=2 if strided else 1,
                padding=1,
                bias=False,
            )
            self.init.apply(conv)
            norm = nn.BatchNorm2d(self.filters, eps=self.norm_eps, track_running_stats=False)
            if not self.norm_gamma:  # a constant, not None: torch 2.13 has no second derivative for a shift alone
                del norm.weight
                norm.register_buffer("weight", torch.ones(self.filters), persistent=False)
            same = self.downsample is Downsample.max_pool_same
            pool = nn.Identity() if strided else nn.MaxPool2d(2, ceil_mode=same)
            blocks.append(Block(conv, norm, nn.ReLU(), pool))
            sides = [-(-side // 2) if strided or same else side // 2 for side in sides]
        if 0 in sides:
            raise UserError(f"model=conv4 halves its input four times: images of {input_shape[1:]} are too small")
        flat = self.features is Features.flatten
        head = nn.Linear(self.filters * (math.prod(sides) if flat else 1), outputs)
        self.head_init.apply(head)
        return Network(nn.Sequential(*blocks), flat, head)


class Block(nn.Sequential):
    """Convolution, then batch norm, ReLU and pooling as one operation (ops.py).

    Where batch norm has statistics of its own, as in a frozen network, the four run one after another; so does a trace
    of torch.fx, of which a network in torch's own layers is made.
    """

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, _, pool = self
        assert isinstance(norm, nn.BatchNorm2d)
        if norm.running_mean is not None or isinstance(x, Proxy):  # the one operation would use those of the batch
            return super().forward(x)
        pooled = isinstance(pool, nn.MaxPool2d) and not pool.ceil_mode
        x = norm_relu_pool(conv(x), norm.weight, norm.bias, norm.eps, True, pooled)
        return x if pooled else pool(x)


class Network(nn.Module):
    """body: [B, C, H, W] -> [B, filters, h, w]; head: features -> [B, outputs]."""

    def __init__(self, body: nn.Module, flat: bool, head: nn.Module):
        super().__init__()
        self.body, self.flat, self.head = body, flat, head

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x.flatten(1) if self.flat else x.mean((-2, -1)))
