"""The three norms against their definitions, spelled out, however a network writes its batch norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from metarun import config
from metarun.core.batch_norm import Mixing, Norm, predict
from metarun.core.ops import norm_relu_pool
from metarun.core.tree import Params
from metarun.datasets.base import Split
from metarun.engine.kernels.build import library
from metarun.engine.kernels.layout import PlainLayout
from metarun.engine.kernels.mode import Grouped
from metarun.errors import ConfigError
from metarun.models.base import Model, functional
from metarun.runs.evaluate import evaluate
from metarun.runs.setup import Setup, build

SUPPORT, QUERY, CHANNELS, EPS = 6, 7, 8, 1e-3
THREE = [n for n in Norm if n is not Norm.all]
Layer = Callable[[Any, Tensor], Tensor]  # (the network, with its batch norm's parameters; what to normalise)


def by_keywords(net: Any, x: Tensor) -> Tensor:
    return F.batch_norm(running_var=None, running_mean=None, eps=EPS, training=True, bias=net.b, weight=net.w, input=x)


def of_series(net: Any, x: Tensor) -> Tensor:
    return F.batch_norm(x.flatten(2), None, None, net.w, net.b, True, 0.1, EPS).view_as(x)


def of_rows(net: Any, x: Tensor) -> Tensor:
    """Each example is several rows, which stand next to each other."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return F.batch_norm(rows, None, None, net.w, net.b, True, 0.1, EPS).unflatten(0, (len(x), -1)).mT.view_as(x)


WAYS: dict[str, Layer] = {
    "a layer": lambda net, x: net.layer(x),
    "a layer, called by name": lambda net, x: net.layer(input=x),
    "F.batch_norm on the layer's parameters": lambda net, x: F.batch_norm(
        x, None, None, net.layer.weight, net.layer.bias, True, 0.1, EPS
    ),
    "norm_relu_pool on the layer's": lambda net, x: norm_relu_pool(
        x, net.layer.weight, net.layer.bias, EPS, False, False
    ),
    "F.batch_norm on bare parameters": lambda net, x: F.batch_norm(x, None, None, net.w, net.b, True, 0.1, EPS),
    "F.batch_norm by keywords": by_keywords,
    "torch.batch_norm": lambda net, x: torch.batch_norm(x, net.w, net.b, None, None, True, 0.1, EPS, False),
    "a scale and shift of their own": lambda net, x: (
        F.batch_norm(x, None, None, None, None, True, 0.1, EPS) * net.w[:, None, None] + net.b[:, None, None]
    ),
    "of volumes": lambda net, x: F.batch_norm(x[..., None], None, None, net.w, net.b, True, 0.1, EPS)[..., 0],
    "of series": of_series,
    "of rows": of_rows,
}


def by_hand(net: Any, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + EPS).sqrt() * net.w[:, None, None] + net.b[:, None, None]


class Net(nn.Module):
    """Twice convolution and batch norm, then a head; every way of writing it has the same parameters and numbers."""

    def __init__(self, layer: Layer = WAYS["a layer"], channels: int = 1, outputs: int = 5):
        super().__init__()
        torch.manual_seed(0)
        self.way = layer
        self.first = nn.Conv2d(channels, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.layer = nn.BatchNorm2d(CHANNELS, eps=EPS, track_running_stats=False)
        self.w, self.b = self.layer.weight, self.layer.bias
        self.head = nn.Linear(CHANNELS, outputs)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.first, self.second):
            x = F.relu(self.way(self, conv(x)))
        return self.head(x.mean((-2, -1)))


def data(shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Support set, query set, and as many others; ``shift``: between support and query, so that statistics differ."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2 * (SUPPORT + QUERY), 1, 5, 5, generator=generator, dtype=torch.float64)
    support, query, others = x.split([SUPPORT, QUERY, SUPPORT + QUERY])
    return support, query * (1 + shift), others


def defined(norm: Norm) -> Tensor:
    """Layer by layer: batch norm takes mean and variance of one batch and is applied to another."""
    net, (support, query, _) = Net().double(), data(0.5)

    def through(statistics_of: Tensor, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        for conv in (net.first, net.second):
            x, statistics_of = conv(x), conv(statistics_of)
            mean, var = (
                statistics_of.mean((0, 2, 3)).view(shape),
                statistics_of.var((0, 2, 3), correction=0).view(shape),
            )
            x, statistics_of = (
                F.relu((v - mean) / (var + EPS).sqrt() * net.w.view(shape) + net.b.view(shape))
                for v in (x, statistics_of)
            )
        return net.head(x.mean((-2, -1)))

    if norm is Norm.transductive:
        return through(query, query)
    if norm is Norm.support:
        return through(support, query)
    return torch.cat([through(torch.cat([support, x[None]]), x[None]) for x in query])


@torch.no_grad()
def measured(layer: Layer, norm: Norm, how: str) -> Tensor:
    net, (support, query, _) = Net(layer).double(), data(0.5)
    forward = functional(net)
    params: Params = dict(net.named_parameters())

    def one(support: Tensor, query: Tensor) -> Tensor:
        return predict(forward, params, support, query, norm)

    if how == "loop":
        return one(support, query)
    if how == "vmap":
        return vmap(one)(support[None], query[None])[0]
    with PlainLayout(), Grouped(library() if how == "native" else None):
        return vmap(one)(support[None], query[None])[0]


@pytest.mark.parametrize("how", ["loop", "vmap", "grouped", "native"])
@pytest.mark.parametrize("way", WAYS)
def test_one_network_however_written_has_the_same_three_rows(way: str, how: str) -> None:
    assert Mixing.of(Net(WAYS[way]), *data()) is Mixing.statistics
    for norm in THREE:
        torch.testing.assert_close(measured(WAYS[way], norm, how), defined(norm), rtol=1e-9, atol=1e-9)


def test_what_conv4_fuses_is_the_same_too() -> None:
    """Batch norm, ReLU and pooling as one operation, with the norms put through it."""

    def fused(net: Any, x: Tensor) -> Tensor:
        return norm_relu_pool(x, net.w, net.b, EPS, True, x.shape[-1] > 3)

    def apart(net: Any, x: Tensor) -> Tensor:
        y = F.relu(net.layer(x))
        return F.max_pool2d(y, 2) if x.shape[-1] > 3 else y

    assert Mixing.of(Net(fused), *data()) is Mixing.statistics
    for norm in THREE:
        for how in ("loop", "native"):
            torch.testing.assert_close(measured(fused, norm, how), measured(apart, norm, "loop"), rtol=1e-9, atol=1e-9)


def test_only_transductive_lets_queries_see_each_other() -> None:
    net, (support, query, _) = Net().double(), data()
    forward = functional(net)
    params: Params = dict(net.named_parameters())
    for norm in THREE:
        alone = predict(forward, params, support, query[:2], norm)
        same = torch.allclose(alone, predict(forward, params, support, query, norm)[:2])
        assert same is (norm is not Norm.transductive)


class Attending(nn.Module):
    """Examples attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.head = nn.Linear(25, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(x.flatten(1))
        return self.head((x @ x.mT).softmax(-1) @ x)


BETWEEN: dict[str, Layer] = {
    "batch norm by hand": by_hand,
    "one by hand behind torch's": lambda net, x: by_hand(net, net.layer(x)),
    "rows that are no examples": lambda net, x: F.batch_norm(  # position by position: the first are no support rows
        x.permute(2, 3, 0, 1).flatten(0, 2), None, None, net.w, net.b, True, 0.1, EPS
    ).unflatten(0, (*x.shape[2:], len(x))).permute(2, 3, 0, 1),
    "how many they are": lambda net, x: net.layer(x) * len(x),
    "pairs": lambda net, x: x + x[torch.arange(len(x)) // 2 * 2],
    "pairs behind batch norm": lambda net, x: net.layer(x) + x[torch.arange(len(x)) // 2 * 2],
    "threes": lambda net, x: x + x[torch.arange(len(x)) // 3 * 3],
    "the one before": lambda net, x: net.layer(x) + x.roll(1, 0),
    "a whisper": lambda net, x: x + 1e-7 * x.mean(0),
    "instance norm of a batch laid out as one image": lambda net, x: F.instance_norm(
        x.transpose(0, 1).flatten(1)[None]
    )[0].unflatten(1, (len(x), *x.shape[2:])).transpose(0, 1),
}  # fmt: skip


@pytest.mark.parametrize("way", [*BETWEEN, "attention"])
def test_other_ways_to_see_each_other_have_no_support_norm(way: str) -> None:
    net = Attending() if way == "attention" else Net(BETWEEN[way])
    mixing = Mixing.of(net, *data())
    assert mixing is Mixing.other
    for refused in (Norm.support, Norm.all):
        with pytest.raises(ConfigError, match=rf"eval.norm={refused.name}: must be transductive or support_plus_one"):
            refused.members(mixing)
    for norm in (Norm.transductive, Norm.support_plus_one):
        assert norm.members(mixing) == [norm]
    if way == "batch norm by hand":
        for norm in (Norm.transductive, Norm.support_plus_one):
            torch.testing.assert_close(measured(BETWEEN[way], norm, "vmap"), defined(norm), rtol=1e-9, atol=1e-9)


ALONE: dict[str, Layer] = {
    "nothing": lambda net, x: x,
    "layer norm": lambda net, x: F.layer_norm(x, x.shape[1:]),
    "group norm": lambda net, x: F.group_norm(x, 2, net.w, net.b),
    "instance norm": lambda net, x: F.instance_norm(x),
    "batch norm with statistics of its own": lambda net, x: F.batch_norm(x, net.b.detach(), net.w.detach().exp()),
    "batch norm whose outputs are thrown away": lambda net, x: x + 0 * net.layer(x),
}


@pytest.mark.parametrize("way", ALONE)
def test_no_batch_norm_is_where_no_output_depends_on_another_example(way: str) -> None:
    mixing = Mixing.of(Net(ALONE[way]), *data())
    assert mixing is Mixing.none
    assert all(norm.members(mixing) == [Norm.transductive] for norm in Norm)  # one row, whatever was asked


def test_what_a_scale_of_zero_hides_is_found() -> None:
    def residual(net: Any, x: Tensor) -> Tensor:
        return x + net.layer(x)

    net = Net(residual)
    nn.init.zeros_(net.layer.weight)
    assert Mixing.of(net, *data()) is Mixing.statistics
    nn.init.zeros_(net.head.weight)
    assert Mixing.of(net, *data()) is Mixing.statistics


def test_networks_that_take_one_precision_are_looked_at_in_it() -> None:
    class Single(Net):
        def forward(self, x: Tensor) -> Tensor:
            return Net.forward(self, x.float())

    assert Mixing.of(Single(), *data()) is Mixing.statistics
    assert Mixing.of(Single(by_hand), *data()) is Mixing.other
    assert Mixing.of(Single(ALONE["group norm"]), *data()) is Mixing.none


def test_what_fails_or_is_not_finite_tells_nothing() -> None:
    assert Mixing.of(nn.Sequential(nn.Flatten(), nn.Linear(3, 5)), *data()) is Mixing.other
    assert Mixing.of(Net(lambda net, x: x / 0), *data()) is Mixing.other


@dataclasses.dataclass(kw_only=True, slots=True)
class Own(Model):
    layer: Any

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Net(self.layer, input_shape[0], outputs)


def bench(layer: Layer, *words: str) -> Setup:
    experiment = config.compose(["eval.query=2", "algo.eval_inner_steps=1", *words])[0]
    return build(dataclasses.replace(experiment, model=Own(layer=layer)))


def test_an_evaluation_rests_on_what_was_found() -> None:
    rows = {}
    for way in ("a layer", "F.batch_norm on bare parameters"):
        b = bench(WAYS[way], "eval.norm=all")
        rows[way] = evaluate(b, b.first_meta(), Split.test, 3, Norm.all)
        assert [score.norm for score in rows[way]] == THREE
    for one, other in zip(*rows.values(), strict=True):
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"eval\.norm=all: must be transductive or"):
        bench(by_hand, "eval.norm=all")
    b = bench(by_hand, "eval.norm=support_plus_one")
    with pytest.raises(ConfigError, match=r"eval\.norm=support: must be"):
        evaluate(b, b.first_meta(), Split.test, 3, Norm.support)
    b = bench(ALONE["group norm"], "eval.norm=all")
    assert [score.norm for score in evaluate(b, b.first_meta(), Split.test, 3, Norm.all)] == [Norm.transductive]


SHIPPED = {
    "model=conv4": Mixing.statistics, "model=conv4_maml": Mixing.statistics, "model=conv4_reptile": Mixing.statistics,
    "model=conv4_pool": Mixing.statistics, "model=mlp": Mixing.none, "model=mlp_maml": Mixing.statistics,
    "algo=mann": Mixing.none, "algo=pretrain": Mixing.statistics, "algo=protonet": Mixing.statistics,
    "dataset=sinusoid": Mixing.none, "algo=oracle": Mixing.none, "dataset=gaussians": Mixing.none,
}  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("word", SHIPPED)
def test_what_the_shipped_networks_do(word: str) -> None:
    more = {"algo=oracle": ["dataset=sinusoid"], "algo=mann": ["model=mann"]}
    assert build(config.compose([word, *more.get(word, [])])[0]).mixing is SHIPPED[word]
