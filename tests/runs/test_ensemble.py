"""Ensembles: which parameters are kept, what is averaged, and that nothing else of a run changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun import config
from metarun.cli import main as cli
from metarun.core import tree
from metarun.core.batch_norm import Norm
from metarun.core.meta import Meta
from metarun.core.metric import ACCURACY, SQUARED_ERROR
from metarun.core.objective import Supervised, Unjudged
from metarun.datasets.base import Split
from metarun.engine.over_tasks import each
from metarun.errors import ConfigError, UserError
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, load
from metarun.runs import train as loop
from metarun.runs.checkpoint import Selection
from metarun.runs.evaluate import Ensemble, evaluate
from metarun.runs.experiment import Select
from metarun.runs.setup import Setup, build
from metarun.verify import problems
from tests.support.commands import same
from tests.support.runs import outcome

BLOBS = [  # one layer, so that training takes a second; its validations differ
    *("dataset=gaussians", "meta_batch=2", "eval.every=2", "eval.val_tasks=8", "eval.tasks=12", "steps=12"),
    *("checkpoint_every=3", "algo.outer_lr=0.3", "algo.outer_schedule=none", "device.compile=false"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(*words: str) -> int:
    return cli.main(["train", *BLOBS, *words])


def found(value: float, step: int) -> Selection:
    return Selection(step, value, 0.1, Meta.of({"w": torch.tensor([float(step)])}))


def test_the_best_are_kept_and_of_equals_the_earlier() -> None:
    kept = found(0.5, 1)
    for step, value in enumerate((0.7, 0.5, 0.6, 0.7, 0.1), start=2):
        kept = kept.and_later(found(value, step), ACCURACY, 4)
    assert [of.step for of in (kept, *kept.others)] == [2, 5, 4, 1]
    assert all(not of.others and of.meta.model["w"].item() == of.step for of in kept.others)
    alone = found(0.5, 1).and_later(found(0.5, 2), ACCURACY, 1)
    assert (alone.step, alone.others) == (1, [])
    assert found(0.5, 1).and_later(found(0.4, 2), SQUARED_ERROR, 1).step == 2, "of errors the smaller"


def test_a_file_has_them_and_older_files_none(tmp_path: Path) -> None:
    kept = found(0.5, 1).and_later(found(0.7, 2), ACCURACY, 2)
    back = Selection.of(kept.plain())
    assert [(of.step, of.value) for of in (back, *back.others)] == [(2, 0.7), (1, 0.5)]
    assert same(back.others[0].meta, kept.others[0].meta)
    assert "others" not in found(0.5, 1).plain()


def members(setup: Setup, many: int) -> Ensemble:
    """Meta-parameters around the first ones."""
    generator = torch.Generator().manual_seed(0)

    def moved(p: torch.Tensor) -> torch.Tensor:
        return p + 0.3 * torch.randn(p.shape, generator=generator)

    return tuple(tree.combine(moved, setup.first_meta()) for _ in range(many))


CASES: dict[str, list[str]] = {
    "maml": ["model=mlp", "model.hidden=[8]"],
    "protonet": ["algo=protonet", "model=mlp", "model.hidden=[8]"],
    "mann": ["algo=mann", "model.units=6", "model.heads=2", "model.width=3", "algo.slots=5", "eval.shot=2"],
    "maml, batch norm": ["model.filters=4", "eval.norm=all"],
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CASES)
def test_outputs_before_the_softmax_are_averaged(name: str) -> None:
    """Against the outputs of each member, averaged task by task."""
    setup = build(config.compose(["eval.tasks=5", "eval.query=2", "device.compile=false", *CASES[name]])[0])
    x, metas = setup.experiment, members(setup, 3)
    got = evaluate(setup, metas, Split.test, 5, x.eval.norm)
    assert isinstance(setup.tested, Supervised)
    for of_norm in got:
        tasks = setup.tasks.sample(Split.test, x.eval.seed, range(5), 5, x.eval.shot, x.eval.query)
        for t, task in enumerate(each(tasks)):
            paths = [[*x.algo.adapt(setup.tested, meta, task, x.algo.eval_inner_steps)] for meta in metas]
            for k, of_members in enumerate(zip(*paths, strict=True)):
                outputs = torch.stack([setup.tested.predict(p, task, of_norm.norm) for p in of_members]).mean(0)
                metric, loss = setup.tested.judge(outputs, task.query_y), setup.tested.loss(outputs, task.query_y)
                assert of_norm.metric[t, k].item() == pytest.approx(metric.item())
                assert of_norm.loss[t, k].item() == pytest.approx(loss.item(), rel=1e-4)
    alone = [evaluate(setup, meta, Split.test, 5, x.eval.norm)[0] for meta in metas]
    assert any(not torch.equal(of.loss, got[0].loss) for of in alone)


def test_any_method_hands_its_outputs_over() -> None:
    """Also one that judges other examples than the query set, with their labels."""
    (case,) = (case for case in problems.cases(torch.device("cpu")) if case.name == "mann")
    for measure in ("query", "instances"):
        algo = problems.small(config.compose(["algo=mann", f"algo.measure={measure}"])[0].algo)
        task, steps = next(each(case.episodes)), range(2)
        told = [*algo.measure_adaptation(case.problem, case.meta, task, steps, [Norm.transductive])]
        given = algo.measure_adaptation(Unjudged(**vars(case.problem)), case.meta, task, steps, [Norm.transductive])
        for (metric, loss), (outputs, labels) in zip(told, given, strict=True):
            again, cost = case.problem.measured([*outputs], labels)
            assert torch.equal(again, metric) and torch.equal(cost, loss)


def test_one_that_diverges_makes_the_ensemble_diverge() -> None:
    setup = build(config.compose([*BLOBS, "eval.ensemble=2"])[0])
    good, other = members(setup, 2)
    bad = tree.combine(lambda p: torch.full_like(p, torch.nan), other)
    (of,) = evaluate(setup, (good, bad), Split.test, 3, Norm.transductive, last_only=True)
    assert of.estimates[-1].diverged == 3 and of.estimates[-1].mean == 0


def test_a_run_is_the_same_with_an_ensemble_beside_it(here: Path) -> None:
    assert trained("run_dir=a") == 0 and trained("run_dir=b", "eval.ensemble=3") == 0
    without, beside = (read_result(here / name / "result.json") for name in "ab")
    assert [score.ensemble for score in beside.scores] == [1, 3] and beside.scores[:1] == without.scores
    assert beside.scores[1] != replace(beside.scores[0], ensemble=3), "other numbers"
    for name in (checkpoint.LAST, checkpoint.BEST):
        a, b = (checkpoint.read(checkpoint.folder(here / run) / name) for run in "ab")
        assert checkpoint.digest(a["meta"]) == checkpoint.digest(b["meta"])
    kept = checkpoint.read(checkpoint.folder(here / "b") / checkpoint.BEST)
    steps = ", ".join(str(of["step"]) for of in (kept, *kept["others"]))
    said = f"of the 3 best on validation, meta-iterations {steps}; their outputs for a query, before any softmax"
    assert beside.protocol["ensemble"].startswith(said) and "ensemble" not in without.protocol
    assert "eval.ensemble" not in without.config and beside.config["eval.ensemble"] == 3
    values = [line["accuracy"] for line in lines(here / "b")]
    assert kept["value"] == max(values) and kept["others"][-1]["value"] == sorted(values)[-3]


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in outcome(run_dir)[1] if line["split"] == "val"]


class Killed(BaseException):
    """The end of a process, as far as one can be had within it."""


@pytest.mark.full
def test_a_killed_run_ends_with_the_same_bits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained("run_dir=whole", "eval.ensemble=3") == 0
    calls, validate = [], loop.validate

    def killed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) in (2, 7):  # nothing is saved then, and the steps since the last checkpoint are taken again
            raise Killed
        return validate(*given)

    monkeypatch.setattr(loop, "validate", killed)
    words = ("run_dir=killed", "eval.ensemble=3")
    for _ in range(2):
        with pytest.raises(Killed):
            trained(*words)
    assert trained(*words) == 0
    assert outcome(here / "killed") == outcome(here / "whole")


@pytest.mark.full
def test_it_is_tested_again_and_smaller_ones_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("run_dir=a", "eval.ensemble=3") == 0
    first = read_result(here / "a/result.json")
    for words in ([], ["eval.ensemble=2"], ["checkpoint=last"], ["eval.ensemble=null"]):
        assert cli.main(["eval", "run=a", *words]) == 0
    again = sorted((read_result(path) for path in (here / "a/eval").glob("*/result.json")), key=lambda r: len(r.scores))
    *alone, two, three = again
    both = [two, three]
    assert {result.config["eval.select"] for result in alone} == {"last", "best"}
    assert all([score.ensemble for score in result.scores] == [1] for result in alone)
    assert sorted(result.scores[1].ensemble for result in both) == [2, 3]
    assert first.scores in [result.scores for result in both]
    (checkpoint.folder(here / "a") / checkpoint.BEST).unlink()  # last.pt has them, too
    assert cli.main(["eval", "run=a"]) == 0
    assert trained("run_dir=b") == 0
    capsys.readouterr()
    for run, said in (("a", "<= 3, as it was trained"), ("b", "null, as it was trained; it kept one set")):
        assert cli.main(["eval", f"run={run}", "eval.ensemble=4"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"eval.ensemble=4: must be {said}" in line


@pytest.mark.filterwarnings("default:eval.ensemble=9")
def test_a_short_run_says_that_it_found_fewer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("run_dir=a", "eval.ensemble=9") == 0
    assert "eval.ensemble=9: averaging the 6 sets of parameters that validation found" in capsys.readouterr().err
    assert [score.ensemble for score in read_result(here / "a/result.json").scores] == [1, 6]
    assert trained("run_dir=b", "eval.ensemble=9", "steps=2") == 0
    assert "eval.ensemble=9: no ensemble: validation found one set of parameters" in capsys.readouterr().err
    assert [score.ensemble for score in read_result(here / "b/result.json").scores] == [1]


def test_another_networks_parameters_are_refused(here: Path) -> None:
    assert trained("run_dir=a", "eval.ensemble=2") == 0
    path = checkpoint.folder(here / "a") / checkpoint.BEST
    content = checkpoint.read(path)
    (other,) = content["others"]
    broken = [{**other, "meta": {"w": torch.ones(2)}}, {**other, "step": 99}, {**other, "value": "0.5"}]
    setup = build(config.compose([*BLOBS, "eval.ensemble=2"])[0])
    for one in broken:
        path.write_bytes(checkpoint.encode({**content, "others": [one]}))
        with pytest.raises(UserError, match="does not fit this run"):
            load.trained(here / "a", Select.best, setup)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval.every=0"], "null where eval.every=0: there is no validation"),
        (["eval.select=last"], "null with eval.select=last: validation chooses an ensemble"),
        (["eval.ensemble=1"], ">= 2"),
        (["dataset=sinusoid"], "null with this data set: outputs are averaged where they choose a class"),
        (["dataset=navigation"], "null with this data set"),
    ],
)
def test_where_there_can_be_none(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(config.compose(["eval.ensemble=5", *words])[0])
    assert "eval.ensemble=" in str(caught.value) and said in str(caught.value)
