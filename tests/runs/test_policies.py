"""Runs of policies, from settings to files: what stands beside a return, and what tests them again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metarun import config
from metarun.core.metric import RETURN
from metarun.errors import UserError
from metarun.results import tables
from metarun.results.result_file import find, read
from metarun.runs import journal, run
from metarun.runs.experiment import Select
from metarun.runs.folder import Record
from metarun.runs.load import evaluate_run
from metarun.runs.train import beside
from tests.support.runs import drawn

WORDS = ["dataset=navigation", "algo=maml", "algo.outer_optimizer=adam", "meta_batch=2", "steps=2", "shot=3", "query=2"]
WORDS += ["eval.tasks=4", "eval.val_tasks=2", "eval.every=1", "eval.shot=4", "eval.query=5", "dataset.horizon=8"]
WORDS += ["model.hidden=[8]", "device.compile=false"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with drawn():
        return run.run(*config.compose([*WORDS, f"run_dir={tmp_path_factory.mktemp('acting') / 'run'}"]))


def again(run_dir: Path, *overrides: str) -> Path:
    record = Record.read(run_dir)
    assert record is not None
    return evaluate_run(run_dir, *config.reopen(record, list(overrides)), Select.best)


@pytest.mark.full
def test_the_result_says_how_noisy_the_policies_were_and_what_is_known_of_the_goals(done: Path) -> None:
    result = read(done / "result.json")
    (score,) = result.scores
    assert result.protocol["task"] == "4 trajectories of 8 steps" and result.protocol["measured_actions"] == "sampled"
    assert [row.beside["trajectories"] for row in score.by_steps] == [4, 4, 4, 5], "the last ones are query data"
    for row in score.by_steps:
        assert 0.5 < row.beside["sigma"] < 1.5 and row.beside["transitions"] <= 8 * row.beside["trajectories"]
    hovering, greedy, best = result.yardsticks.values()
    assert hovering.mean < greedy.mean < best.mean < 0 and hovering.tasks == 4
    page = (done / "report.md").read_text()
    assert "| steps | none (no batch norm) | sigma | trajectories | transitions |" in page
    assert f"On the same tasks: hovering at the start {hovering.text(result.metric)};" in page
    for name in ("curves.png", "outer.png", "steps.png", "paths.png"):
        assert (done / name).exists() and f"({name})" in page


def test_the_journal_has_returns_before_and_after(done: Path) -> None:
    train, val = (next(of for of in journal.read(done) if of["split"] == split) for split in ("train", "val"))
    assert train["env_steps_per_s"] == pytest.approx(train["env_steps"] * train["tasks_per_s"], rel=0.01)
    assert {"return", "return_before", "sigma", "trajectories"} <= set(val)
    shown: dict[str, str] = {}

    class Bar:
        def set_postfix(self, words: dict[str, str], refresh: bool) -> None:
            shown.update(words)

    show = beside(Bar(), RETURN)
    show(train)
    show(val)
    assert shown["return"] == f"{train['return_before']:.3g} -> {train['return']:.3g}" and "loss" not in shown
    assert shown["val return"].startswith(f"{val['return_before']:.3g} -> {val['return']:.3g} ± ")


@pytest.mark.full
def test_policies_are_tested_again_with_other_goals_steps_and_actions(done: Path) -> None:
    longer = read(again(done, "algo.eval_inner_steps=5", "eval.tasks=3") / "result.json")
    assert len(longer.scores[0].by_steps) == 6
    others = read(again(done, "dataset.test_goals=drawn", "eval.tasks=41") / "result.json")
    assert others.scores[0].estimate.tasks == 41 and others.protocol["split"] != longer.protocol["split"]
    mean = read(again(done, "dataset.actions=mean") / "result.json")
    assert mean.protocol["measured_actions"] == "mean"
    first = read(done / "result.json").scores[0].by_steps
    assert mean.scores[0].by_steps[1].estimate != first[1].estimate, "measured on other actions"
    assert mean.scores[0].by_steps[1].beside == first[1].beside, "adapted on the same"
    table = tables.rows(find([done]))
    assert len(table) == 4 and "| sigma |" in tables.markdown(table)
    panels = {of.panel for of in tables.by_steps(find([done]))}
    assert len(panels) == 3, "other goals, or another number of them, are no comparison"
    for words, said in {"eval.tasks=41": "<= 40: there are no other", "eval.shot=0": ">= 1"}.items():
        with pytest.raises(UserError, match=said):
            again(done, words)


@pytest.mark.drawn
def test_a_supervised_result_has_nothing_beside(tmp_path: Path) -> None:
    words = ["dataset=sinusoid", "steps=1", "meta_batch=2", "eval.tasks=2", "eval.every=0", "device.compile=false"]
    out = run.run(*config.compose([*words, f"run_dir={tmp_path / 'run'}"]))
    content = json.loads((out / "result.json").read_text())
    assert "yardsticks" not in content and "beside" not in content["scores"][0]["by_steps"][0]
    assert not (out / "outer.png").exists()
