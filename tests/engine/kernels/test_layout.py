"""Functions for which torch's vmap looks at how a tensor lies in memory, behind tensors that lie channels last."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun import config
from metarun.algorithms.maml import Derivative
from metarun.core.batch_norm import Norm, predict
from metarun.core.episode import Episode
from metarun.core.inner import InnerOptimizer
from metarun.core.meta import Meta
from metarun.core.objective import classification
from metarun.engine.kernels.layout import PlainLayout, plain
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import OverTasks
from metarun.models.base import functional
from metarun.verify import check, problems
from metarun.verify.problems import Case

pytestmark = pytest.mark.sampled(3)

ENGINES = check.engines(torch.device("cpu"))
WAYS = ["loop", "vmap", "native" if "native" in ENGINES else "grouped"]
C, SIDE = 8, 6


def turned(x: Tensor) -> Tensor:
    """Channels last in memory, as a convolution of kernels/ leaves it."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x


class Fn(nn.Module):
    def __init__(self, fn: Callable[[Tensor], Tensor]):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


class OverPositions(nn.Module):
    """A layer for sequences or for last axes, over the positions of an image."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).mT
        y = self.layer(rows, rows, rows)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(rows)
        return y.mT.unflatten(2, x.shape[2:])


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "group norm": lambda: nn.GroupNorm(2, C),
    "group norm, no scale": lambda: nn.GroupNorm(4, C, affine=False),
    "one group": lambda: nn.GroupNorm(1, C),
    "F.group_norm by names": lambda: Fn(lambda x: F.group_norm(num_groups=2, input=x)),
    "torch.group_norm": lambda: Fn(lambda x: torch.group_norm(x, 8)),
    "group norm of one position": lambda: nn.Sequential(nn.AvgPool2d(SIDE), nn.GroupNorm(2, C)),
    "group norm of one channel": lambda: nn.Sequential(nn.Conv2d(C, 1, 3), nn.GroupNorm(1, 1)),
    "group norm of series": lambda: nn.Sequential(nn.Flatten(2), nn.GroupNorm(2, C)),
    "instance norm": lambda: nn.InstanceNorm2d(C, affine=True),
    "layer norm": lambda: OverPositions(nn.LayerNorm(C)),
    "layer norm of images": lambda: nn.LayerNorm([C, SIDE, SIDE]),
    "rms norm": lambda: OverPositions(nn.RMSNorm(C)),
    "local response norm": lambda: nn.LocalResponseNorm(3),
    "attention": lambda: OverPositions(nn.MultiheadAttention(C, 2, batch_first=True)),
    "max-pooling": lambda: nn.MaxPool2d(2),
    "max-pooling by names": lambda: Fn(lambda x: F.max_pool2d(kernel_size=2, input=x)),
    "max-pooling, overlapping": lambda: nn.MaxPool2d(3, 2, 1),
    "max-pooling of series": lambda: nn.Sequential(nn.Flatten(2), nn.MaxPool1d(2)),
    "adaptive max-pooling": lambda: nn.AdaptiveMaxPool2d(4),
    "adaptive max-pooling of series": lambda: nn.Sequential(nn.Flatten(2), nn.AdaptiveMaxPool1d(5)),
    "adaptive average": lambda: nn.AdaptiveAvgPool2d(4),
    "adaptive average to one": lambda: nn.AdaptiveAvgPool2d(1),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(size=(5, 7), mode="bilinear"),
    "pixel shuffle": lambda: nn.PixelShuffle(2),
    "channel shuffle": lambda: nn.ChannelShuffle(2),
    "depthwise": lambda: nn.Conv2d(C, C, 3, groups=C),
    "dilated": lambda: nn.Conv2d(C, C, 3, dilation=2),
    "transposed": lambda: nn.ConvTranspose2d(C, C, 2, 2),
    "convolution of series": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(C, C, 3)),
    "convolution of volumes": lambda: nn.Sequential(Fn(lambda x: x[:, None]), nn.Conv3d(1, 2, 3)),
    "embedding of positions": lambda: Positions(),
}


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(SIDE, C)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(torch.arange(SIDE)).mT[:, :, None]


class Net(nn.Module):
    """The layer behind a second convolution, where tensors lie channels last on every engine."""

    def __init__(self, make: Callable[[], nn.Module]):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.layer = nn.Conv2d(1, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=1), make()
        width = self.layer(torch.zeros(1, C, SIDE, SIDE)).numel()
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(turned(self.second(turned(self.first(x)).tanh())))
        return self.head(turned(turned(x).tanh()).flatten(1))


def case(make: Callable[[], nn.Module]) -> Case:
    net = Net(make).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 12, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat_interleave(2).expand(3, -1)
    moved = {n: p.detach() + 0.1 * torch.randn(p.shape, generator=generator) for n, p in net.named_parameters()}
    episodes = Episode(x[:, :6], y, x[:, 6:], y, torch.arange(3))
    return Case("", classification(functional(net), 3), Meta.of(moved), episodes)


def method(name: str, **settings: Any) -> Any:
    algo: Any = config.compose([f"algo={name}"])[0].algo
    return dataclasses.replace(algo, inner_lr=0.1, inner_steps=1, eval_inner_steps=1, **settings)


MAML_STORED = method("maml")
METHODS = {
    "maml": MAML_STORED,
    "recompute": dataclasses.replace(MAML_STORED, hypergrad=Derivative.recompute),
    "reptile": method(
        "reptile", inner_batch=4, carry_moments=False, inner_optimizer=InnerOptimizer.sgd
    ),  # Adam would magnify rounding
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's vmap of some convolutions
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_behind_a_convolution_on_every_engine(layer: str) -> None:
    """Training's derivatives, first and second, against plain ``torch.autograd``; and evaluation, which takes the
    first alone, against the loop."""
    given = case(LAYERS[layer])
    for name, algo in METHODS.items():
        want = check.reference(algo, given)
        for way in WAYS[1:]:
            got, _ = MetaGradient(ENGINES[way][0], algo, given.problem)(given.meta, given.episodes)
            assert problems.relative_error(got, want) < 1e-10, (name, way)

    def outputs(meta: Meta, task: Episode) -> Tensor:
        _, adapted = MAML_STORED.adapt(given.problem, meta, task, 1)
        of_norms = (predict(given.problem.forward, adapted, task.support_x, task.query_x, n) for n in list(Norm)[:3])
        return torch.stack(list(of_norms))

    rows = [torch.cat(list(OverTasks(ENGINES[way][0], outputs)(given.meta, given.episodes))) for way in WAYS]
    for other in rows[1:]:
        torch.testing.assert_close(other, rows[0], rtol=1e-10, atol=1e-10)


def test_batch_norm_of_volumes_with_an_axis_of_one() -> None:
    """torch 2.13's own derivative is wrong there."""
    x = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def slope(x: Tensor, layer: Callable[..., Tensor]) -> Tensor:
        x = x.detach().requires_grad_()
        y = layer(turned(x)[..., None], None, None, training=True)
        return torch.autograd.grad(y.sin().square().sum(), x)[0]

    def by_hand(x: Tensor, *_: Any, training: bool) -> Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()

    with PlainLayout():
        got = slope(x, F.batch_norm)
    torch.testing.assert_close(got, slope(x, by_hand), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 3, 4, 5), (2, 3, 4), (2, 3), (0, 3)])
def test_plain_strides_are_a_new_tensors(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    assert plain(x) is x
    y = plain(turned(x))
    assert torch.equal(y, x) and y.stride() == torch.empty(shape).stride()
