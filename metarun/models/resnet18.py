"""ResNet-18: He et al. 2016, "Deep residual learning for image recognition", table 1, as torchvision builds it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor, nn

from metarun.compat.torchvision import torchvision
from metarun.errors import UserError
from metarun.models.base import Model

SMALLEST = 17  # pixels a side; with fewer, five halvings, each rounded up, reach 1 before the fifth


@dataclass(kw_only=True, slots=True)
class ResNet18(Model):
    """ResNet-18 with torchvision's random initialisation: 11.2 million parameters; batch norm on batch statistics."""

    def known_as(self, name: str) -> str:
        return name.replace("fc.", "head.", 1) if name.startswith("fc.") else f"body.{name}"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(input_shape) != 3:
            raise UserError(
                f"model=resnet18 needs images, but the data set's inputs have shape {input_shape}; use model=mlp"
            )
        channels, *sides = input_shape
        if min(sides) < SMALLEST:
            raise UserError(
                f"model=resnet18 halves its input five times: images of {input_shape[1:]} are too small, "
                f"{SMALLEST} pixels a side would do"
            )
        norm = functools.partial(nn.BatchNorm2d, track_running_stats=False)
        body = torchvision().models.resnet18(norm_layer=norm, num_classes=outputs)
        if channels != body.conv1.in_channels:  # for example grey images
            body.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        body.avgpool = Mean()
        head, body.fc = body.fc, nn.Identity()
        return Network(body, head)


class Mean(nn.Module):
    """[B, C, H, W] -> [B, C], in place of torchvision's adaptive pooling, for which vmap has no rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class Network(nn.Module):
    """body: [B, C, H, W] -> features [B, 512]; head: features -> [B, outputs]."""

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
