"""MAML++'s changes, each alone; test_conformance.py holds its meta-gradients against references."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from metarun import config
from metarun.algorithms.maml import MAML, Derivative
from metarun.algorithms.mamlpp import LEAST, MAMLpp
from metarun.core.meta import Meta
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine, Vectorize
from metarun.verify import problems
from tests.support.commands import same

(CASE, *_) = problems.cases(torch.device("cpu"))


def algorithm(**settings: Any) -> Any:
    plain = {"learned_rates": False, "multi_step": 0.0, "first_order_until": 0.0}
    return dataclasses.replace(problems.small(config.compose(["algo=mamlpp"])[0].algo), **plain | settings)


def gradient(algo: MAML, progress: float = 0.0) -> Meta:
    meta = algo.init(CASE.meta.model)
    return MetaGradient(Engine(Vectorize.vmap), algo, CASE.problem)(meta, CASE.episodes, progress)[0]


def test_with_all_of_it_off_it_is_maml() -> None:
    shared = {f.name: getattr(algorithm(), f.name) for f in dataclasses.fields(MAML)}
    maml, plain = gradient(MAML(**shared)), gradient(algorithm())
    assert same(maml, plain)


def test_each_change_alone_changes_the_gradient() -> None:
    plain = gradient(algorithm())
    for change in ({"multi_step": 1.0}, {"first_order_until": 0.5}, {"learned_rates": True}):
        got = gradient(algorithm(**change))
        assert same(got._replace(step_sizes={}), plain) is ("learned_rates" in change)  # which begin at inner_lr
    assert list(got.step_sizes) == list(plain.model) and not plain.step_sizes
    assert all(slope.shape == (3,) and slope.all() for slope in got.step_sizes.values())


def test_early_losses_fade_and_end() -> None:
    algo = algorithm(multi_step=0.9, multi_step_until=0.5)
    assert isinstance(algo, MAMLpp)
    weights = [algo.early_weight(torch.tensor(progress)).item() for progress in (0.0, 0.25, 0.4999)]
    assert weights == pytest.approx([0.9 / 3, 0.45 / 3, LEAST * 0.9 / 3])
    last = algorithm()
    for progress, over in ((0.49, False), (0.5, True), (0.99, True)):
        assert same(gradient(algo, progress), gradient(last)) is over


def test_the_derivative_is_of_first_order_until_told() -> None:
    algo = algorithm(first_order_until=0.3)
    first, exact = (gradient(algorithm(hypergrad=d)) for d in (Derivative.first_order, Derivative.store))
    for progress, want in ((0.0, first), (0.29, first), (0.3, exact), (1.0, exact)):
        assert same(gradient(algo, progress), want)


def test_a_prepared_meta_gradient_follows_the_training() -> None:
    """One object, as the training loop holds it, through both changes and with a weight that moves in between."""
    algo = algorithm(first_order_until=0.3, multi_step=1.0, multi_step_until=0.6, learned_rates=True)
    meta = algo.init(CASE.meta.model)
    held = MetaGradient(Engine(Vectorize.vmap), algo, CASE.problem)
    for progress in (0.0, 0.1, 0.35, 0.5, 0.7):
        got, _ = held(meta, CASE.episodes, progress)
        assert same(got, gradient(algo, progress)) and list(got.step_sizes) == list(meta.model)
