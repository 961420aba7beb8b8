"""MAML++'s changes, each alone; test_conformance.py holds its meta-gradients against references."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.algorithms.maml import MAML, Derivative
from metarun.algorithms.mamlpp import LEAST, MAMLpp
from metarun.core import tree
from metarun.core.meta import Meta
from metarun.core.tree import Params
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine, Vectorize, each
from metarun.errors import ConfigError
from metarun.runs.setup import build
from metarun.verify import check, problems
from tests.support.commands import same

CASES = {case.name: case for case in problems.cases(torch.device("cpu"))}
CASE, NORMED = CASES["mlp"], CASES["conv4 max-pool"]
NORM = ["body.*.1.*"]  # scale and shift of batch norm


def algorithm(**settings: Any) -> Any:
    plain = {"learned_rates": False, "multi_step": 0.0, "first_order_until": 0.0}
    return dataclasses.replace(problems.small(config.compose(["algo=mamlpp"])[0].algo), **plain | settings)


def gradient(algo: MAML, progress: float = 0.0, case: problems.Case = CASE, meta: Meta | None = None) -> Meta:
    meta = meta or algo.init(case.meta.model)
    return MetaGradient(Engine(Vectorize.vmap), algo, case.problem)(meta, case.episodes, progress)[0]


@pytest.mark.full
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


def test_norm_of_each_step_by_finite_differences() -> None:
    """Batch norm's scale and shift of each inner step, in the network that has them, entry by entry."""
    algo = algorithm(per_step=NORM, multi_step=0.6, learned_rates=True)
    meta = problems.first_meta(algo, NORMED)
    got, loss = gradient(algo, case=NORMED, meta=meta), check.query_loss_after_adapting(algo, NORMED)
    assert {name: list(rows.shape) for name, rows in meta.later.items()} == {
        f"body.{layer}.1.{what}": [2, 8] for layer in range(4) for what in ("weight", "bias")
    }
    for name in ("body.0.1.weight", "body.3.1.bias"):
        for part in ("model", "later"):
            found = getattr(got, part)[name]
            for i in range(0, found.numel(), 3):  # of eight channels and two later steps
                unit = tree.zeros_like(meta)
                getattr(unit, part)[name].view(-1)[i] = 1
                slope = problems.finite_difference(loss, meta, unit, step=1e-6)
                assert found.view(-1)[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-7), (name, part, i)
        assert all(row.any() for row in got.later[name]) and got.model[name].any()


def test_norm_of_each_step_begins_as_one_that_does_not_adapt() -> None:
    """With equal values the loss is that of frozen ones, and the meta-gradients of the steps add up to theirs."""
    apart, shared = (gradient(algorithm(**{key: NORM}), case=NORMED) for key in ("per_step", "frozen"))
    for name, want in shared.model.items():
        total = apart.model[name] + (apart.later[name].sum(0) if name in apart.later else 0)
        assert torch.allclose(total, want, rtol=1e-9, atol=1e-12)
    assert apart.later and not shared.later


def test_which_step_has_which_values() -> None:
    """After k steps those of step k-1, as in the published code; in more steps than in training the last ones."""
    algo = algorithm(per_step=NORM)
    meta = problems.first_meta(algo, NORMED)
    name, task = "body.1.1.weight", next(each(NORMED.episodes))
    first, (second, third) = meta.model[name], meta.later[name]
    seen: list[Tensor] = []

    def forward(params: Params, x: Tensor) -> Tensor:
        seen.append(params[name])
        return NORMED.problem.forward(params, x)

    watched = dataclasses.replace(NORMED.problem, forward=forward)
    after = [params[name] for params in algo.adapt(watched, meta, task, 5)]
    for got, want in (
        (after, [first, first, second, third, third, third]),
        (seen, [first, second, third, third, third]),
    ):
        assert len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_norm_of_each_step_is_refused_where_it_cannot_be() -> None:
    for patterns, said in ((["nothing"], "a pattern of parameter names"), (["*"], "a parameter is left to adapt")):
        with pytest.raises(ConfigError, match=rf"algo\.per_step=.*{said}"):
            algorithm(per_step=patterns).init(CASE.meta.model)
    assert not algorithm(per_step=["*bias"], inner_steps=1).init(CASE.meta.model).later  # one step has the model's own


def test_given_parameters_are_those_of_every_step() -> None:
    """A run that starts from another one's (``init``), which has one value for all steps."""
    setup = build(
        config.compose(["algo=mamlpp", "model.filters=4", "device.compile=false", "algo.per_step=[body.*.1.*]"])[0]
    )
    name = "body.2.1.weight"
    given = dataclasses.replace(setup, given={name: torch.arange(4.0)}).first_meta()
    assert torch.equal(given.model[name], torch.arange(4.0))
    assert torch.equal(given.later[name], torch.arange(4.0).expand(4, 4)), (
        "five steps, of which the model has the first"
    )
    assert torch.equal(given.later["body.1.1.weight"], setup.first_meta().later["body.1.1.weight"])
