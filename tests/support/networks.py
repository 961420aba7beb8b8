"""Small networks that several tests share."""

from __future__ import annotations

from torch import Tensor, nn


def convolutions() -> list[nn.Module]:
    norm = nn.BatchNorm2d(16, track_running_stats=False)
    return [nn.Conv2d(1, 16, 3, 2), norm, nn.Tanh(), nn.Conv2d(16, 8, 3, 2, bias=False), nn.GroupNorm(2, 8), nn.Tanh()]


class First(nn.Module):
    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return x[0]
