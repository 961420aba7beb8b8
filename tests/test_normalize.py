"""The three norms against their definitions, spelled out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import vmap

from metarun.normalize import Norm, normalizes, predict
from metarun.tree import Params

SUPPORT, QUERY = 6, 7


def network() -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * 25, 7),
        nn.BatchNorm1d(7, track_running_stats=False),
        nn.Linear(7, 5),
    ).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SUPPORT + QUERY, 1, 5, 5, generator=generator, dtype=torch.float64)
    return x[:SUPPORT], x[SUPPORT:]


def by_hand(module: nn.Sequential, statistics_of: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Layer by layer: batch norm takes mean and variance of one batch and is applied to another."""
    for layer in module:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            axes = [0] if statistics_of.ndim == 2 else [0, 2, 3]
            shape = (1, -1) if statistics_of.ndim == 2 else (1, -1, 1, 1)
            mean, var = statistics_of.mean(axes).view(shape), statistics_of.var(axes, correction=0).view(shape)
            weight, bias = layer.weight.view(shape), layer.bias.view(shape)
            x, statistics_of = ((v - mean) / (var + layer.eps).sqrt() * weight + bias for v in (x, statistics_of))
        else:
            x, statistics_of = layer(x), layer(statistics_of)
    return x


def expected(norm: Norm) -> torch.Tensor:
    module, (support, query) = network(), data()
    if norm is Norm.transductive:
        return by_hand(module, query, query)
    if norm is Norm.support:
        return by_hand(module, support, query)
    return torch.cat([by_hand(module, torch.cat([support, x[None]]), x[None]) for x in query])


@pytest.mark.parametrize("norm", [n for n in Norm if n is not Norm.all])
def test_norms_are_their_definitions(norm: Norm) -> None:
    module, (support, query) = network(), data()
    params: Params = dict(module.named_parameters())
    with torch.no_grad():
        got = predict(module, params, support, query, norm)
        torch.testing.assert_close(got, expected(norm))
        together = vmap(lambda s, q: predict(module, params, s, q, norm))(support[None], query[None])[0]
        torch.testing.assert_close(together, got)
        # no hook stays behind
        torch.testing.assert_close(
            predict(module, params, support, query, Norm.transductive), expected(Norm.transductive)
        )


def test_only_transductive_lets_queries_see_each_other() -> None:
    module, (support, query) = network(), data()
    params: Params = dict(module.named_parameters())
    for norm in (Norm.transductive, Norm.support, Norm.support_plus_one):
        alone = predict(module, params, support, query[:2], norm)
        same = torch.allclose(alone, predict(module, params, support, query, norm)[:2])
        assert same is (norm is not Norm.transductive)


def test_all_is_each_of_them_where_they_differ() -> None:
    assert Norm.all.members(network()) == [Norm.transductive, Norm.support, Norm.support_plus_one]
    assert Norm.support.members(network()) == [Norm.support]
    plain = nn.Linear(2, 2)
    assert not normalizes(plain) and Norm.all.members(plain) == [Norm.transductive]
