"""Recipes: verdicts, and that every published protocol composes, says where it comes from, and trains."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun import config
from metarun.algorithms.random import Random
from metarun.core.batch_norm import Norm
from metarun.datasets.base import Split
from metarun.datasets.generated import Generated
from metarun.errors import ConfigError, UserError
from metarun.reproduce.verdict import Verdict
from metarun.runs.experiment import Experiment
from metarun.runs.recipe import Reference
from metarun.runs.record import Record
from metarun.runs.setup import assemble
from metarun.runs.signals import StopSignals
from metarun.runs.train import train
from tests.support.commands import same

pytestmark = pytest.mark.full

RECIPES = config.choices("recipe")


def reference(value: float = 0.95, interval: float | None = 0.01, band: list[float] | None = None) -> Reference:
    return Reference(
        value=value,
        interval=interval,
        interval_of="95 % over tasks",
        source="table 1",
        norm=Norm.transductive,
        steps=3,
        tasks=600,
        confirmed=True,
        band=band,
        band_reason="because" if band else "",
    )


@pytest.mark.parametrize(
    ("mean", "half", "band", "budget", "verdict"),
    [
        (0.965, 0.006, None, 1.0, Verdict.reproduced),  # the intervals overlap
        (0.967, 0.006, None, 1.0, Verdict.above),
        (0.933, 0.006, None, 1.0, Verdict.below),
        (0.933, 0.006, [0.93, 0.98], 1.0, Verdict.reproduced),
        (0.990, 0.006, [0.93, 0.98], 1.0, Verdict.above),
        (0.95, 0.006, None, 0.5, Verdict.partial),
        (0.70, 0.30, None, 1.0, Verdict.undecided),  # an interval that overlaps with everything
        (math.nan, math.nan, None, 1.0, Verdict.below),
    ],
)
def test_verdicts(mean: float, half: float, band: list[float] | None, budget: float, verdict: Verdict) -> None:
    assert Verdict.of(reference(band=band), mean, half, budget, larger_is_better=True) is verdict


def test_for_errors_smaller_is_above() -> None:
    given = reference(0.35, None)
    assert Verdict.of(given, 0.40, 0.06, 1.0, larger_is_better=False) is Verdict.reproduced
    assert Verdict.of(given, 0.50, 0.06, 1.0, larger_is_better=False) is Verdict.below
    assert Verdict.of(given, 0.20, 0.06, 1.0, larger_is_better=False) is Verdict.above


def test_a_band_has_two_ends_and_a_reason() -> None:
    with pytest.raises(ConfigError, match=r"band=.*low <= high"):
        reference(band=[0.9, 0.8])
    with pytest.raises(ConfigError, match="band_reason"):
        Reference(
            value=0.5,
            interval=None,
            interval_of="",
            source="",
            norm=None,
            steps=1,
            tasks=None,
            confirmed=True,
            band=[0, 1],
        )


@functools.cache
def composed(name: str) -> tuple[Experiment, Record]:
    return config.compose([f"recipe={name}"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_whole_protocol(name: str) -> None:
    experiment, _ = composed(name)
    recipe = experiment.recipe
    assert recipe is not None and recipe.name == name and recipe.budget == 1
    selects = "mamlpp" in name  # the code published with MAML++ alone
    assert experiment.eval.select.name == ("best" if selects else "last")
    for number in recipe.reference:
        assert number.source and number.interval_of
        assert number.steps == experiment.algo.eval_inner_steps or experiment.eval.every_step
        assert number.norm in (None, *(Norm if experiment.eval.norm is Norm.all else [experiment.eval.norm]))
        assert number.tasks in (None, experiment.eval.tasks)
        assert number.ensemble in (1, experiment.eval.ensemble), "or it has no row"
    text = (config.conf_dir() / "recipe" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n# "), "says what it is"


@pytest.mark.sampled(0)  # every recipe takes two real steps
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_without_test_tasks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = config.recipe(name)
    smaller: dict[str, Any] = {width: 4 for width in ("filters", "units") if hasattr(whole.model, width)}
    acts = not whole.dataset.labelled
    if acts and name.startswith("cheetah"):
        pytest.importorskip("mujoco", reason="needs pip install 'metarun[mujoco]', which the dev extra contains")
    experiment = replace(
        whole,
        steps=2,
        dataset=replace(whole.dataset, horizon=9) if acts else whole.dataset,  # type: ignore[call-arg]
        meta_batch=1,
        eval=replace(whole.eval, val_tasks=2),
        device=replace(whole.device, compile="false"),
        model=replace(whole.model, **smaller),
    )
    device = torch.device("cpu")
    tasks = experiment.dataset.load(tmp_path, device) if acts else Generated(experiment.dataset, device)
    bench = assemble(experiment, tasks, device)
    drawn, sample = set(), bench.tasks.sample

    def recorded(split: Split, *arguments: Any) -> Any:
        drawn.add(split)
        return sample(split, *arguments)

    monkeypatch.setattr(bench.tasks, "sample", recorded)
    before = bench.first_meta()
    state = train(bench, tmp_path, StopSignals())
    assert Split.train in drawn and Split.test not in drawn
    trains = not isinstance(experiment.algo, Random)
    assert state.step == (2 if trains else 1) and same(before, state.meta) is not trains


def test_the_budget_scales_training_and_nothing_else() -> None:
    full, _ = config.compose(["recipe=omniglot/maml_5w1s"])
    tenth, record = config.compose(["recipe=omniglot/maml_5w1s", "recipe.budget=0.1"])
    assert (full.steps, tenth.steps) == (60000, 6000) and tenth.eval == full.eval
    assert record.identity()["recipe.budget"] == 0.1
    again, _ = config.reopen(record, [])
    assert again == tenth
    for wrong in ("0", "1.5", "nan"):
        with pytest.raises(UserError, match=r"recipe\.budget"):
            config.compose(["recipe=omniglot/maml_5w1s", f"recipe.budget={wrong}"])
    with pytest.raises(UserError, match="did you mean omniglot/maml_5w1s"):
        config.compose(["recipe=omniglot/maml5w1s"])


def test_both_readings_of_what_the_sources_leave_open_are_there() -> None:
    def identity(name: str) -> dict[str, object]:
        return composed(name)[1].identity()

    official = identity("omniglot/maml_5w1s")
    for variant, key, there, here in (
        ("omniglot/maml_5w1s_mean", "algo.inner_loss", "sum_over_shot", "mean"),
        ("omniglot/maml_5w1s_antialias", "dataset.resize", "nearest", "antialias"),
        ("omniglot/maml_5w1s_turned_classes", "dataset.rotations", "per_task", "as_classes"),
    ):
        other = identity(variant)
        differ = {k for k in official if official[k] != other[k]}
        assert differ == {key, "recipe.name"} and (official[key], other[key]) == (there, here)
    slow, fast = (identity(f"sinusoid/{name}")["algo.inner_lr"] for name in ("maml_5s_lr001", "maml_5s"))
    assert (slow, fast) == (0.001, 0.01)


def test_a_run_says_what_it_changed_of_its_recipe() -> None:
    _, plain = config.compose(["recipe=omniglot/maml_5w1s", "recipe.budget=0.1", "seed=3", "device.threads=1"])
    assert plain.changed == []
    _, record = config.compose(["recipe=omniglot/maml_5w1s", "algo=fomaml", "eval.tasks=100"])
    assert sorted(record.changed) == ["algo (option)=fomaml", "algo.hypergrad=first_order", "eval.tasks=100"]
    _, again = config.reopen(plain, ["eval.norm=all"])
    assert again.changed == ["eval.norm=all"]


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ("omniglot/maml_5w1s", "algo.head=zero"),
        ("omniglot/maml_5w1s", "eval.way=7"),
        ("navigation/maml", "algo.trust_region.max_kl=0.5"),
        ("navigation/maml", "algo.trust_region.curvature=exact"),
        ("cheetah/direction_maml", "algo.trust_region.max_kl=0.01"),
        ("cheetah/direction_maml", "algo.outer_optimizer=sgd"),
    ],
)
def test_a_setting_that_identities_leave_out_at_its_usual_value_is_a_change_too(recipe: str, word: str) -> None:
    """Usual in the recipe and not in the run, or the other way round."""
    _, record = config.compose([f"recipe={recipe}", word])
    assert record.changed == [word]
