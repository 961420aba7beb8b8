from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun import config
from metarun.core import tree
from metarun.core.intervals import Estimate
from metarun.core.meta import Meta
from metarun.datasets.base import Split
from metarun.datasets.sampler import ClassPool
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine, Vectorize
from metarun.errors import Interrupted, NotFinite
from metarun.results.result import AfterSteps
from metarun.runs import checkpoint, journal
from metarun.runs import train as loop
from metarun.runs.evaluate import Evaluator
from metarun.runs.setup import Setup, build
from metarun.runs.signals import StopSignals
from tests.support.commands import ON_IMAGES, same
from tests.support.own_images import QUICK, own_images

SMALL = ["model.filters=8", "meta_batch=4", "eval.val_tasks=4", "log_every=2", "checkpoint_every=2"]


def bench(*overrides: str) -> Setup:
    return build(config.compose([*SMALL, *overrides])[0])


def validated(mean: float) -> list[AfterSteps]:
    return [AfterSteps(steps=1, estimate=Estimate(mean, 0.01, 4, 0), loss=0.5)]


def run(b: Setup, folder: Path) -> checkpoint.TrainState:
    folder.mkdir(exist_ok=True)
    return loop.train(b, folder, StopSignals())


def test_a_step_is_the_optimisers_on_the_mean_meta_gradient(tmp_path: Path) -> None:
    b = bench("steps=3", "algo.outer_optimizer=sgd", "algo.outer_lr=0.5", "algo.outer_schedule=linear", "eval.every=0")
    meta = b.first_meta()
    for step, lr in enumerate((0.5, 1 / 3, 1 / 6)):
        tasks = b.tasks.sample(Split.train, 0, range(4 * step, 4 * step + 4), 5, 1, 5)
        grads, _ = b.meta_gradient()(meta, tasks)
        meta = tree.add_scaled(meta, -lr, grads)
    state = run(b, tmp_path)
    for got, want in zip(tree.leaves(state.meta), tree.leaves(meta), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.sampled(1, 5)
@pytest.mark.parametrize("algo", [algo for algo in ON_IMAGES if algo != "random"])
def test_it_learns(algo: str, tmp_path: Path) -> None:
    """In 40 steps; a perceptron does where it is enough, in a tenth of the time."""
    words = [*SMALL, f"algo={algo}", "steps=40", "eval.every=40", "algo.eval_inner_steps=3"]
    if algo in ("fomaml", "imaml", "reptile"):
        words.append("model.filters=16")
    else:
        words = [*words[1:], "model=mlp", "model.hidden=[64]", "algo.outer_lr=0.01", "device.compile=false"]
    run(build(config.compose(words)[0]), tmp_path)
    losses = [line["loss"] for line in journal.read(tmp_path) if line["split"] == "train"]
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0]


def test_the_best_validation_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, seen = iter([0.3, 0.9, 0.5, 0.9]), []

    def validate(b: Setup, meta: Meta, score: Evaluator) -> tuple[Meta, list[AfterSteps]]:
        seen.append(tree.combine(torch.clone, meta))
        return meta, validated(next(values))

    monkeypatch.setattr(loop, "validate", validate)
    state = run(bench("steps=8", "eval.every=2"), tmp_path)
    assert state.selection is not None and (state.selection.step, state.selection.value) == (4, 0.9)
    best = checkpoint.read(checkpoint.folder(tmp_path) / checkpoint.BEST)
    assert same(state.selection.meta, seen[1]) and same(Meta.from_flat(best["meta"]), seen[1])
    assert not any(map(torch.equal, tree.leaves(seen[1]), tree.leaves(state.meta)))


def test_a_smaller_error_is_the_better_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.3, 0.1, 0.5])
    monkeypatch.setattr(loop, "validate", lambda b, meta, score: (meta, validated(next(values))))
    state = run(build(config.compose(["dataset=sinusoid", "steps=3", "eval.every=1"])[0]), tmp_path)
    assert state.selection is not None and state.selection.step == 2


def test_what_is_no_number_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan, values = float("nan"), iter([float("nan"), 0.3, float("nan"), 0.4])
    monkeypatch.setattr(loop, "validate", lambda b, meta, score: (meta, validated(next(values))))
    b = build(config.compose(["dataset=sinusoid", "steps=4", "eval.every=1"])[0])
    state = run(b, tmp_path)
    assert state.selection is not None and (state.selection.step, state.selection.value) == (2, 0.3)
    assert max([nan, 5.0, 0.2, nan], key=b.problem.metric.goodness) == 0.2
    assert max([nan, 0.1, 0.9], key=bench().problem.metric.goodness) == 0.9


def test_training_and_selection_never_draw_a_test_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b, drawn = bench("steps=4", "eval.every=2"), []
    sample = b.tasks.sample

    def recorded(split: Split, *arguments: Any) -> Any:
        drawn.append(split)
        return sample(split, *arguments)

    monkeypatch.setattr(b.tasks, "sample", recorded)
    run(b, tmp_path)
    assert set(drawn) == {Split.train, Split.val}


@pytest.mark.full
def test_other_test_classes_leave_training_and_selection_as_they_were(tmp_path: Path) -> None:
    """Every bit of both checkpoints: not through sampling, nor the pool, nor its statistics."""
    kept = []
    for name in ("real", "poisoned"):
        b = bench("steps=4", "eval.every=2")
        assert isinstance(b.tasks, ClassPool)
        if name == "poisoned":
            pool = b.tasks.pools[Split.test]
            b.tasks.pools[Split.test] = pool._replace(images=torch.full_like(pool.images, 77))
        run(b, tmp_path / name)
        folder = checkpoint.folder(tmp_path / name)
        kept.append([(folder / file).read_bytes() for file in (checkpoint.LAST, checkpoint.BEST)])
    assert kept[0] == kept[1]


def test_drawing_ahead_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["dataset=sinusoid", "steps=7", "eval.every=0", "device.compile=false", "checkpoint_every=3"]
    ahead = run(build(config.compose(words)[0]), tmp_path / "ahead")
    monkeypatch.setattr(loop, "NUMBERS_AT_ONCE", 1)
    one_by_one = run(build(config.compose(words)[0]), tmp_path / "one by one")
    assert same(ahead.meta, one_by_one.meta)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("during", [1, 3])  # which validation the signal falls into: one in the middle, or the last
def test_a_signal_during_validation_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: int) -> None:
    stop, calls = StopSignals(), []

    def validate(b: Setup, meta: Meta, score: Evaluator) -> tuple[Meta, list[AfterSteps]]:
        calls.append(1)
        if len(calls) == during:
            stop.received = signal.SIGTERM
        return meta, validated(0.5)

    monkeypatch.setattr(loop, "validate", validate)
    with pytest.raises(Interrupted, match=r"stopped after meta-iteration (\d+) of 9, saved") as caught:
        loop.train(bench("steps=9", "eval.every=3", "checkpoint_every=50"), tmp_path, stop)
    saved = checkpoint.load(tmp_path)
    assert saved is not None and f"meta-iteration {saved.step} of 9" in str(caught.value)
    assert saved.step >= 3 * during and saved.selection is not None


def test_the_log_says_what_happened(tmp_path: Path) -> None:
    run(bench("steps=5", "eval.every=2"), tmp_path)
    lines = journal.read(tmp_path)
    assert [(line["split"], line["step"]) for line in lines] == [
        ("train", 2), ("val", 2), ("train", 4), ("val", 4), ("train", 5), ("val", 5),
    ]  # fmt: skip
    assert {"loss", "accuracy", "grad_norm", "tasks_per_s", "lr", "seconds"} <= set(lines[0])
    assert {"accuracy", "ci95", "tasks", "diverged"} <= set(lines[1])
    assert (lines[1]["tasks"], lines[1]["diverged"]) == (4, 0)


def test_a_bad_number_names_step_tasks_and_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench("steps=9", "eval.every=0", "log_every=3", "checkpoint_every=3")
    calls: list[int] = []

    def poisoned(self: MetaGradient, *arguments: Any, **named: Any) -> Any:
        grads, metrics = computed(self, *arguments, **named)
        calls.append(1)
        if len(calls) == 5:
            metrics["loss"][2] = float("nan")
        return grads, metrics

    computed = MetaGradient.__call__
    monkeypatch.setattr(MetaGradient, "__call__", poisoned)
    with pytest.raises(NotFinite, match=r"meta-iteration 5 \(tasks 16..19\): the loss of .* tasks \[18\]") as caught:
        run(b, tmp_path)
    assert caught.value.status == 3 and "last.pt" in str(caught.value)
    state = checkpoint.load(tmp_path)
    assert state is not None and state.step == 3 and all(value.isfinite().all() for value in tree.leaves(state.meta))


def test_a_split_without_validation_classes_trains_and_selects_the_last(tmp_path: Path) -> None:
    own_images(tmp_path / "images")
    words = [*QUICK, "dataset=image_folder", f"data_root={tmp_path}", "dataset.shares=[0.6,0,0.4]", "eval.every=1"]
    state = run(build(config.compose(words)[0]), tmp_path)
    assert state.selection is None and {line["split"] for line in journal.read(tmp_path)} == {"train"}


def test_chunks_do_not_change_the_gradient() -> None:
    whole = bench("device.vectorize=vmap", "meta_batch=5")
    meta = whole.first_meta()
    tasks = whole.tasks.sample(Split.train, 0, range(5), 5, 1, 5)
    algo, problem = whole.experiment.algo, whole.problem
    want, _ = MetaGradient(Engine(Vectorize.vmap), algo, problem)(meta, tasks)
    for chunk in (1, 2, 3):
        got, metrics = MetaGradient(Engine(Vectorize.vmap, chunk), algo, problem)(meta, tasks)
        assert metrics["loss"].shape == (5,)
        for ours, theirs in zip(tree.leaves(got), tree.leaves(want), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
