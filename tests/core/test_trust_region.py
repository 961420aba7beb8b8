"""The outer steps of TRPO and ProMP against meta-batches whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.meta import Meta
from metarun.core.outer import OuterOptimizer, OuterSettings, Schedule
from metarun.core.outer_settings import Curvature, ProMP, TrustRegion
from metarun.core.outer_step import MetaBatch, Nothing, Trial

START = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
SLOPE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
FISHER = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]], dtype=torch.float64)


def settings(rule: OuterOptimizer, **more: Any) -> OuterSettings:
    return OuterSettings(
        outer_optimizer=rule,
        outer_lr=0.1,
        outer_eps=1e-8,
        outer_schedule=Schedule.none,
        clip_value=None,
        clip_norm=None,
        trust_region=TrustRegion(damping=0.0, **more) if rule is OuterOptimizer.trpo else TrustRegion(),
    )


def parameters() -> Meta:
    return Meta.of({"w": START[:2].clone()}, step_sizes={"w": START[2:].clone()})


def flat(meta: Meta) -> Tensor:
    return torch.cat(list(tree.leaves(meta)))


def like(values: Tensor) -> Meta:
    return Meta.of({"w": values[:2]}, step_sizes={"w": values[2:]})


class Quadratic(MetaBatch):
    """A linear loss and a quadratic KL divergence, with changes of the answers for tests of refusals."""

    def __init__(self, change: Callable[[int, Trial], Trial] = lambda asked, trial: trial):
        self.change, self.asked, self.gradients = change, 0, 0

    def trial(self, meta: Meta) -> Trial:
        off = flat(meta) - START
        self.asked += 1
        return self.change(self.asked - 1, Trial(SLOPE @ off, off @ FISHER @ off / 2))

    def fisher(self, meta: Meta) -> Callable[[Meta], Meta]:
        return lambda v: like(FISHER @ flat(v))

    def slope(self, meta: Meta) -> Meta:
        return like(FISHER @ (flat(meta) - START))

    def gradient(self, meta: Meta) -> tuple[Meta, Tensor]:
        self.gradients += 1
        return like(SLOPE), torch.tensor(0.25, dtype=torch.float64)


def trpo(batch: MetaBatch, grads: Meta | None = None, **more: Any) -> tuple[Meta, dict[str, float]]:
    meta = parameters()
    outer = settings(OuterOptimizer.trpo, **more).outer_step(meta)
    facts = outer.step(like(SLOPE) if grads is None else grads, 0.0, batch)
    assert outer.state_dict() == {} and outer.rates() == {}
    return meta, {name: value.item() for name, value in facts.items()}


@pytest.mark.parametrize("curvature", Curvature)
def test_the_step_is_the_natural_gradient_as_long_as_the_bound_allows(curvature: Curvature) -> None:
    """Where the KL divergence is quadratic, its curvature is the same by differences."""
    meta, facts = trpo(Quadratic(), curvature=curvature)
    direction = torch.linalg.solve(FISHER, SLOPE)
    want = math.sqrt(2 * 0.01 / (SLOPE @ direction).item()) * direction
    torch.testing.assert_close(flat(meta), START - want, rtol=1e-7, atol=1e-9)
    assert facts["kl"] == pytest.approx(0.01, rel=1e-6) and facts["kl"] <= 0.01
    assert facts["kl_before"] == 0 and facts["loss_before"] == 0
    assert facts["loss_after"] == pytest.approx(-(SLOPE @ want).item(), rel=1e-6)
    assert facts["grad_norm"] == pytest.approx(SLOPE.norm().item())
    assert facts["step_norm"] == pytest.approx(want.norm().item(), rel=1e-6)
    assert (facts["backtracks"], facts["rejected"]) == (0, 0)


def test_differences_are_over_a_step_of_one_over_the_length_of_the_parameters() -> None:
    """With a divergence of higher order, and one step of conjugate gradient, whose length is known."""

    class Steep(Quadratic):
        def slope(self, meta: Meta) -> Meta:
            off = flat(meta) - START
            return like(FISHER @ off + off**3)

    def image(v: Tensor) -> Tensor:  # of central differences: the square of the step stays with the third power
        return FISHER @ v + v**3 / START.square().sum()

    meta, _ = trpo(Steep(), curvature=Curvature.differences, cg_steps=1)
    direction = SLOPE * (SLOPE @ SLOPE) / (SLOPE @ image(SLOPE))
    want = math.sqrt(2 * 0.01 / (direction @ image(direction)).item()) * direction
    torch.testing.assert_close(flat(meta), START - want, rtol=1e-6, atol=1e-8)


def test_the_first_candidate_that_is_good_enough_is_taken() -> None:
    """Divergences are four times those of the model, so a step may be half as long: 0.8^4 of the first one."""
    meta, facts = trpo(Quadratic(lambda asked, trial: trial._replace(kl=4 * trial.kl)))
    assert (facts["backtracks"], facts["rejected"]) == (4, 0) and facts["kl"] <= 0.01 < facts["kl"] / 0.8**2
    whole, _ = trpo(Quadratic())
    torch.testing.assert_close(flat(meta) - START, 0.8**4 * (flat(whole) - START))


NAN = torch.tensor(math.nan, dtype=torch.float64)
REFUSALS = {
    "a loss that grows": lambda asked, trial: trial._replace(loss=trial.loss.abs()),
    "a loss that stays": lambda asked, trial: trial._replace(loss=torch.zeros_like(trial.loss)),
    "nan loss": lambda asked, trial: trial._replace(loss=NAN) if asked else trial,
    "nan loss before": lambda asked, trial: trial if asked else trial._replace(loss=NAN),
    "nan divergence": lambda asked, trial: trial._replace(kl=NAN) if asked else trial,
    "a divergence beyond the bound": lambda asked, trial: trial._replace(kl=trial.kl + 1),
}


@pytest.mark.parametrize("change", REFUSALS.values(), ids=REFUSALS)
def test_a_search_that_fails_leaves_every_bit(change: Callable[[int, Trial], Trial]) -> None:
    batch = Quadratic(change)
    meta, facts = trpo(batch)
    assert torch.equal(flat(meta), START) and batch.asked == 16
    assert (facts["rejected"], facts["backtracks"], facts["step_norm"]) == (1, 15, 0)


@pytest.mark.parametrize("grads", [torch.zeros(3), torch.full((3,), math.nan)], ids=["zero", "nan"])
def test_no_direction_no_step(grads: Tensor) -> None:
    batch = Quadratic()
    meta, facts = trpo(batch, like(grads.double()))
    assert torch.equal(flat(meta), START) and facts["rejected"] == 1 and batch.asked == 1


def test_a_curvature_that_is_not_finite_is_refused() -> None:
    class Broken(Quadratic):
        def fisher(self, meta: Meta) -> Callable[[Meta], Meta]:
            return lambda v: like(math.inf * flat(v) - math.inf * flat(v))

    meta, facts = trpo(Broken())
    assert torch.equal(flat(meta), START) and facts["rejected"] == 1


def test_an_error_within_the_search_leaves_every_bit() -> None:
    def fails(asked: int, trial: Trial) -> Trial:
        if asked == 2:
            raise KeyboardInterrupt
        return trial._replace(kl=trial.kl + (asked > 0))

    meta = parameters()
    with pytest.raises(KeyboardInterrupt):
        settings(OuterOptimizer.trpo).outer_step(meta).step(like(SLOPE), 0.0, Quadratic(fails))
    assert torch.equal(flat(meta), START)


def test_promp_makes_several_adam_steps() -> None:
    rule = settings(OuterOptimizer.promp)
    assert rule.promp == ProMP(steps=5, clip=0.3, penalty=5e-4)
    meta, batch = parameters(), Quadratic()
    outer = rule.outer_step(meta)
    facts = outer.step(like(SLOPE), 0.0, batch)
    assert batch.gradients == 4, "the first of the five is the meta-gradient, which is given"
    torch.testing.assert_close(flat(meta), START - 0.1 * 5 * SLOPE.sign(), rtol=1e-6, atol=1e-6)
    assert facts["clipped"] == 0.25 and facts["kl"] == batch.trial(meta).kl and outer.rates() == {"lr": 0.1}
    assert all(int(moments["step"]) == 5 for moments in outer.state_dict()["state"].values())


@pytest.mark.parametrize("rule", OuterOptimizer)
def test_nothing_moves_nothing(rule: OuterOptimizer) -> None:
    meta = parameters()
    settings(rule).outer_step(meta).step(tree.zeros_like(meta), 0.0, Nothing())
    assert torch.equal(flat(meta), START)


def test_keys_that_another_rule_reads() -> None:
    unread = {rule: settings(rule).unread() for rule in OuterOptimizer}
    assert {"outer_lr", "outer_eps", "outer_schedule", "clip_value", "clip_norm"} <= set(unread[OuterOptimizer.trpo])
    assert "promp.steps" in unread[OuterOptimizer.trpo] and "trust_region.max_kl" not in unread[OuterOptimizer.trpo]
    assert "trust_region.max_kl" in unread[OuterOptimizer.promp] and "outer_lr" not in unread[OuterOptimizer.promp]
    assert {"trust_region.damping", "promp.clip"} <= set(unread[OuterOptimizer.adam])
    assert unread[OuterOptimizer.sgd].keys() - unread[OuterOptimizer.adam].keys() == {"outer_eps"}
