"""Heads that are made for a task."""

from __future__ import annotations

import pytest
import torch

from metarun import config
from metarun.core.head import BIAS, WEIGHT, Head
from metarun.core.objective import classification
from metarun.errors import ConfigError, UserError
from metarun.models.base import functional, initialise
from metarun.models.mlp import MLP, Activation, Init


@pytest.mark.parametrize("way", [2, 7])
def test_the_head_of_any_way(way: int) -> None:
    model = MLP(hidden=[6], activation=Activation.tanh, norm=False, norm_gamma=True, norm_eps=1e-5, init=Init.xavier)
    module = initialise(model, (3,), 5, seed=0).double()
    params = {name: p.detach() for name, p in module.named_parameters()}
    problem = classification(functional(module), way)
    x, y = torch.randn(3 * way, 3, dtype=torch.float64), torch.arange(way).repeat(3)
    query = torch.randn(9, 3, dtype=torch.float64)
    assert Head.learned.of(problem, params, x, y) == {}
    zeros = Head.zero.of(problem, params, x, y)
    assert zeros[WEIGHT].shape == (way, 6) and zeros[BIAS].shape == (way,) and not any(p.any() for p in zeros.values())
    made = {**params, **Head.prototypes.of(problem, params, x, y)}
    features = module.get_submodule("body")
    centres = torch.stack([features(x[y == n]).mean(0) for n in range(way)])
    distances = torch.cdist(features(query), centres).square()
    logits = problem.forward(made, query)
    assert torch.allclose(logits.log_softmax(-1), (-distances).log_softmax(-1), atol=1e-12)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algo=maml"], "must be 5, as in training: this method has one head"),
        (["algo=reptile", "model=mlp"], "must be 5, as in training"),
        (["algo=mann", "model=mann"], "must be 5, as in training"),
    ],
)
def test_a_head_of_training_keeps_its_way(words: list[str], said: str) -> None:
    from metarun.runs.setup import build

    with pytest.raises(ConfigError, match=said):
        build(config.compose([*words, "eval.way=6", "device.compile=false"])[0])


def test_what_makes_no_sense_is_one_line() -> None:
    from metarun.runs.setup import build

    with pytest.raises(ConfigError, match=r"algo\.head=zero: must be learned with algo=meta_sgd"):
        config.compose(["algo=meta_sgd", "algo.head=zero"])
    with pytest.raises(ConfigError, match=r"algo\.frozen=.* such that the head adapts"):
        build(config.compose(["algo=boil", "algo.head=zero", "device.compile=false"])[0])
    with pytest.raises(UserError, match="needs tasks with one output for each class"):
        build(config.compose(["dataset=sinusoid", "model=mlp", "algo=protomaml"])[0])
    with pytest.raises(UserError, match="nothing reads it"):
        config.compose(["dataset=sinusoid", "eval.way=3"])
    with pytest.raises(ConfigError, match=r"eval\.way=1: must be >= 2"):
        config.compose(["eval.way=1"])
