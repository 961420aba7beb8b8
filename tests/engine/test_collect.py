"""Tasks made by acting: step k's data come from the parameters after k steps, and count as constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.core import rng
from metarun.core.batch_norm import Norm
from metarun.core.meta import Meta
from metarun.core.metric import SQUARED_ERROR
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.engine.collect import collected
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine, Vectorize
from metarun.runs.setup import build

STEPS, LR = 3, 0.1


class Walk(Problem):
    """Parameters are a place in the plane; acting finds points around it; the loss is the distance to a goal there."""

    metric = SQUARED_ERROR
    collects: ClassVar[bool] = True

    def collect(self, params: Params, tasks: Any, k: int, last: bool) -> Any:
        place = params["place"]
        assert not place.requires_grad and last == (k == STEPS)
        noise = rng.normal(rng.fold(tasks["key"], k), 2).to(place)
        points = tasks["points"].clone()
        points[:, k] = place + noise
        return {**tasks, "points": points}

    def support_loss(self, params: Params, task: Any, k: int) -> Tensor:
        weight = task["points"][k].square().sum()  # of what was found, a constant
        return weight * (params["place"] - task["goal"]).square().sum()

    def support_metrics(self, params: Params, task: Any, k: int) -> Metrics:
        loss = self.support_loss(params, task, k).detach()
        return {"loss": loss, self.metric.name: loss}

    def query_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        loss = self.support_loss(params, task, STEPS)
        return loss, {"loss": loss.detach(), self.metric.name: loss.detach()}

    def whole_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        return self.query_loss(params, task)

    def measure(self, params: Params, task: Any, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        loss = self.support_loss(params, task, k)
        return loss[None], loss[None]


def tasks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    goals = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    return {"goal": goals, "key": torch.arange(4), "points": torch.zeros(4, STEPS + 1, 2, dtype=torch.float64)}


def by_hand(start: Tensor, one: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(points, meta-gradient) of one task, by torch.autograd."""
    place, points = start.clone().requires_grad_(), []
    leaf = place
    for k in range(STEPS + 1):
        points.append(place.detach() + rng.normal(rng.fold(one["key"], k), 2).to(place))
        loss = points[-1].square().sum() * (place - one["goal"]).square().sum()
        if k < STEPS:
            place = place - LR * torch.autograd.grad(loss, place, create_graph=True)[0]
    return torch.stack(points), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("engine", [Engine(Vectorize.loop, 1), Engine(Vectorize.vmap), Engine(Vectorize.vmap, 3)])
@pytest.mark.parametrize("hypergrad", ["store", "recompute"])
def test_data_follow_the_parameters_of_their_step(engine: Engine, hypergrad: str) -> None:
    words = [f"algo.inner_steps={STEPS}", f"algo.inner_lr={LR}", f"algo.hypergrad={hypergrad}"]
    algo = config.compose(["algo=maml", *words])[0].algo
    start = torch.tensor([0.3, -0.2], dtype=torch.float64)
    meta, given = Meta.of({"place": start}), tasks()
    want = [by_hand(start, {name: value[i] for name, value in given.items()}) for i in range(4)]
    found = collected(engine, algo, Walk(), meta, given, STEPS, training=True)
    torch.testing.assert_close(found["points"], torch.stack([points for points, _ in want]))
    assert not given["points"].any(), "the tasks that were given stay as they were"
    got, _ = MetaGradient(engine, algo, Walk())(meta, found)
    torch.testing.assert_close(got.model["place"], torch.stack([g for _, g in want]).mean(0))


def test_other_problems_are_handed_on_untouched() -> None:
    bench = build(config.compose(["dataset=sinusoid"])[0])
    given = object()
    assert (
        collected(bench.engine, bench.experiment.algo, bench.problem, bench.first_meta(), given, 3, training=True)
        is given
    )
