"""A network that is no pure function is refused in one line that names the layer and what was found; others are not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from metarun.core.purity import require_pure, seeded
from metarun.errors import UserError
from metarun.models.base import functional

steps = 0


class Layer(nn.Module):
    """A layer that calls ``fn(itself, x)`` and has these attributes."""

    def __init__(self, fn: Callable[[Any, Tensor], Any], **attributes: Any):
        super().__init__()
        self.fn = fn
        self.register_buffer("mean", torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.fn(self, x)


def flat(layer: nn.Module) -> nn.Module:
    """[B, 1, 6, 6] -> [B, 5], the layer in the middle."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), layer, nn.Linear(12, 5))


def image(layer: nn.Module, features: int = 144) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Identity(), layer, nn.Flatten(), nn.Linear(features, 5))


def sequence(layer: nn.Module) -> nn.Module:
    """Rows as a sequence, for what returns a tuple or wants its input three times."""

    def run(self: Any, x: Tensor) -> Tensor:
        y = self.layer(*[x[:, 0]] * (3 if isinstance(layer, nn.MultiheadAttention) else 1))
        return self.head((y[0] if isinstance(y, tuple) else y)[:, -1])

    return Layer(run, layer=layer, head=nn.Linear(6, 5))


def count(self: Any, x: Tensor) -> Tensor:
    self.n += 1
    return x * self.n


def count_for_nothing(self: Any, x: Tensor) -> Tensor:
    self.n += 1
    return x


def warm_up(self: Any, x: Tensor) -> Tensor:
    self.n += 1
    return x if self.n < 500 else 2 * x


def count_globally(self: Any, x: Tensor) -> Tensor:
    global steps
    steps += 1
    return x * steps


def average(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        self.mean.lerp_(x.mean(), 0.1)
    return x


def average_anew(self: Any, x: Tensor) -> Tensor:
    self.mean = 0.9 * self.mean + x.detach().mean()
    return x


def shrink(self: Any, x: Tensor) -> Tensor:
    self.scale.data.mul_(0.9)
    return x


def remember(self: Any, x: Tensor) -> Tensor:
    before, self.before = self.before, x
    return x if before is None else x + before


def look_up(self: Any, x: Tensor) -> Tensor:
    if self.table is None:
        self.table = torch.arange(12.0)
    return x + self.table


def hidden(self: Any, x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        return x + torch.rand_like(x)


def toggle(self: Any, x: Tensor) -> Tensor:
    self.train(not self.training)
    return x if self.training else 2 * x


def fresh(self: Any, x: Tensor) -> Tensor:
    return x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))


DRAWS, OTHERS = "draws random numbers in forward", "gives other outputs for equal inputs"
IMPURE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout": (lambda: flat(nn.Dropout(0.5)), rf"layer 2 \(Dropout\) {DRAWS}, from torch; build it with p=0"),
    "feature dropout": (lambda: image(nn.Dropout2d(0.5)), rf"layer 2 \(Dropout2d\) {DRAWS}, from torch; .* p=0"),
    "lstm": (
        lambda: sequence(nn.LSTM(6, 6, 2, dropout=0.5, batch_first=True)),
        rf"layer layer \(LSTM\) {DRAWS}, from torch; build it with dropout=0",
    ),
    "gru": (lambda: sequence(nn.GRU(6, 6, 2, dropout=0.1)), rf"layer layer \(GRU\) {DRAWS}, .*dropout=0"),
    "attention": (
        lambda: sequence(nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True)),
        rf"layer layer \(MultiheadAttention\) {DRAWS}, .*dropout=0",
    ),
    "transformer": (
        lambda: sequence(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)),
        rf"layer layer.self_attn \(MultiheadAttention\) {DRAWS}, .*dropout=0",
    ),
    "F.dropout": (lambda: flat(Layer(lambda s, x: F.dropout(x, 0.5, s.training))), rf"layer 2 \(Layer\) {DRAWS}"),
    "F.alpha_dropout": (lambda: flat(Layer(lambda s, x: F.alpha_dropout(x, s.p, True), p=0.2)), f"{DRAWS}, .*p=0"),
    "noise": (lambda: flat(Layer(lambda s, x: x + torch.randn_like(x))), rf"layer 2 \(Layer\) {DRAWS}, from torch"),
    "rrelu": (lambda: flat(nn.RReLU()), rf"layer 2 \(RReLU\) {DRAWS}"),
    "gumbel": (lambda: flat(Layer(lambda s, x: F.gumbel_softmax(x))), DRAWS),
    "fractional pooling": (lambda: image(nn.FractionalMaxPool2d(2, output_size=3), 36), rf"\(Frac.*\) {DRAWS}"),
    "random": (lambda: flat(Layer(lambda s, x: x * random.random())), f"{DRAWS}, from Python's random"),
    "numpy": (lambda: flat(Layer(lambda s, x: x * float(np.random.rand()))), f"{DRAWS}, from numpy.random"),
    "drawn for nothing": (lambda: flat(Layer(lambda s, x: (random.random(), x)[1])), DRAWS),
    "between layers": (
        lambda: Layer(lambda s, x: s.layer(x + torch.rand_like(x)), layer=flat(nn.ReLU())),
        rf"the network itself \(Layer\) {DRAWS}",
    ),
    "a generator put back": (lambda: flat(Layer(hidden)), rf"layer 2 \(Layer\) {OTHERS}"),
    "a generator of its own": (
        lambda: flat(Layer(lambda s, x: x + torch.rand(x.shape, generator=s.own), own=torch.Generator())),
        rf"layer 2 \(Layer\) {OTHERS}",
    ),
    "the clock": (lambda: flat(Layer(lambda s, x: x * time.perf_counter())), OTHERS),
    "spectral norm": (lambda: flat(nn.utils.spectral_norm(nn.Linear(12, 12))), r"layer 2 \(Linear\) writes .*weight_u"),
    "spectral norm, new": (
        lambda: flat(parametrizations.spectral_norm(nn.Linear(12, 12))),
        r"layer 2.parametrizations.weight.0 \(_SpectralNorm\) writes to its buffer _u in forward",
    ),
    "running statistics": (lambda: flat(nn.BatchNorm1d(12)), r"\(BatchNorm1d\) writes to its buffer running_mean"),
    "average": (lambda: flat(Layer(average)), r"layer 2 \(Layer\) writes to its buffer mean in forward"),
    "average put in place": (lambda: flat(Layer(average_anew)), r"layer 2 \(Layer\) writes to its buffer mean"),
    "weights": (lambda: flat(Layer(shrink)), r"layer 2 \(Layer\) writes to its parameter scale in forward"),
    "counter": (lambda: flat(Layer(count, n=0)), rf"layer 2 \(Layer\) {OTHERS}"),
    "global counter": (lambda: flat(Layer(count_globally)), rf"layer 2 \(Layer\) {OTHERS}"),
    "counter between layers": (
        lambda: Layer(lambda s, x: s.layer(count(s, x)), layer=flat(nn.ReLU()), n=0),
        rf"the network itself \(Layer\) {OTHERS}",
    ),
    "warm-up": (lambda: flat(Layer(warm_up, n=0)), r"layer 2 \(Layer\) changes its n in forward, and outputs depend"),
    "memory": (lambda: flat(Layer(remember, before=None)), rf"layer 2 \(Layer\) {OTHERS}"),
    "mode": (lambda: flat(Layer(toggle)), rf"layer 2 \(Layer\) {OTHERS}"),
    "input": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 5)), "writes to its input"),
    "lazy": (lambda: flat(nn.LazyLinear(12)), "2.weight has no shape before a first forward pass; make one in build"),
    "wrong shape": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 6), nn.Flatten()),
        r"layer 0 \(Conv2d\) fails on a batch of shape \[2, 1, 6, 6\]: Given groups=1",
    ),
    "error": (lambda: flat(Layer(lambda s, x: s.missing)), r"layer 2 \(Layer\) fails .*has no attribute 'missing'"),
    "outputs": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 7)), r"gives \[2, 7\] for .*, not \[2, 5\]"),
    "no axis": (lambda: Layer(lambda s, x: x.sum((1, 2, 3))), r"gives \[2\] for"),
    "tuple": (lambda: Layer(lambda s, x: (x, x)), "gives tuple for a batch"),
}
PURE: dict[str, Callable[[], nn.Module]] = {
    "dropout of nothing": lambda: flat(nn.Dropout(0.0)),
    "dropout that is not called": lambda: flat(Layer(lambda s, x: x, layer=nn.Dropout(0.5))),
    "lstm": lambda: sequence(nn.LSTM(6, 6, 2, batch_first=True)),
    "attention": lambda: sequence(nn.MultiheadAttention(6, 2, batch_first=True)),
    "transformer": lambda: sequence(nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)),
    "weight norm": lambda: flat(nn.utils.weight_norm(nn.Linear(12, 12))),
    "weight norm, new": lambda: flat(parametrizations.weight_norm(nn.Linear(12, 12))),
    "batch norm": lambda: flat(nn.BatchNorm1d(12, track_running_stats=False)),
    "instance norm": lambda: image(nn.InstanceNorm2d(4)),
    "rrelu at test": lambda: flat(Layer(lambda s, x: F.rrelu(x, training=False))),
    "in place": lambda: flat(nn.ReLU(inplace=True)),
    "a table made late": lambda: flat(Layer(look_up, table=None)),
    "a counter that counts for nothing": lambda: flat(Layer(count_for_nothing, n=0)),
    "a generator made anew": lambda: flat(Layer(fresh)),
    "a transform of its own": lambda: flat(Layer(lambda s, x: torch.vmap(s.layer)(x), layer=nn.Linear(12, 12))),
    "not finite": lambda: flat(Layer(lambda s, x: x / 0 - x / 0)),
    "a layer on a column": lambda: flat(Layer(lambda s, x: x + s.layer(x[:, 0])[:, None], layer=nn.Tanh())),
    "a layer on one number": lambda: flat(Layer(lambda s, x: x + s.layer(x[1:, 0]), layer=nn.Tanh())),
    "a choice by value": lambda: flat(Layer(lambda s, x: x if x.sum() > 0 else -x)),
}


def states() -> tuple[bytes, Any, str]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())


def check(build: Callable[[], nn.Module]) -> None:
    before = states()
    try:
        with seeded(0):
            module = build().train()
        require_pure(module, functional(module), (1, 6, 6), 5)
    finally:
        assert states() == before


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, of its old norms of weights


@pytest.mark.parametrize("name", IMPURE)
def test_refused(name: str) -> None:
    build, said = IMPURE[name]
    with pytest.raises(UserError, match=f"^model: .*{said}") as refused:
        check(build)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", PURE)
def test_accepted(name: str) -> None:
    check(PURE[name])


def test_what_happens_every_so_many_calls_is_found() -> None:
    def every(k: int, self: Any, x: Tensor) -> Tensor:
        self.n += 1
        return x if self.n % k else 2 * x

    for k in (2, 3, 4, 10, 100):
        with pytest.raises(UserError, match=r"layer 2 \(Layer\)"):
            check(partial(flat, Layer(partial(every, k), n=0)))
