"""Results before pictures: whatever is tested has a result, and pictures where its inputs are ones."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.core.episode import Episode, TaskFigure
from metarun.core.metric import SQUARED_ERROR, Metric
from metarun.core.objective import Supervised, binary, classification, regression, squared_error
from metarun.core.tree import Params
from metarun.datasets.base import Split, Tasks
from metarun.errors import NotFinite
from metarun.results import tables, task_figures, training
from metarun.results.result_file import find, sealed
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, run, train
from metarun.runs.experiment import Experiment
from metarun.runs.load import evaluate_run
from metarun.runs.record import Record
from metarun.runs.setup import Setup, assemble
from tests.support.results import RETURN

WORDS = ["model=mlp", "model.hidden=[4]", "steps=2", "meta_batch=2", "eval.every=1", "eval.val_tasks=4"]
WORDS += ["eval.tasks=6", "algo.eval_inner_steps=2", "algo.inner_steps=1", "device.compile=false", "run_dir=run"]


class Made(Tasks):
    """Random inputs of any shape; ``targets`` numbers to be met, or as many classes as there are ways."""

    def __init__(
        self,
        shape: tuple[int, ...],
        figure: TaskFigure = TaskFigure.none,
        targets: int = 0,
        one_output: bool = False,
        metric: Metric = SQUARED_ERROR,
    ):
        self.input_shape, self.targets, self.one_output, self.stamp = shape, targets, one_output, {"split": "made up"}
        self.figure, self.metric = figure, metric

    def has(self, split: Split) -> bool:
        return True

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        pass

    def outputs(self, way: int) -> int:
        return self.targets or (1 if self.one_output else way)

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        if self.targets and self.metric.larger_is_better:
            return replace(regression(forward), metric=self.metric, judge=lambda o, y: -squared_error(o, y))
        if self.targets:
            return regression(forward)
        return binary(forward) if self.one_output else classification(forward, way)

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
        key, ways = torch.tensor(indices), 1 if self.targets else way

        def examples(each: int, of: int) -> tuple[Tensor, Tensor]:
            streams = [torch.Generator().manual_seed(1000 * of + i) for i in indices]
            x = torch.stack([torch.rand(ways * each, *self.input_shape, generator=g) for g in streams])
            if self.targets:
                return x, x.flatten(2)[:, :, :1].repeat(1, 1, self.targets)
            return x, torch.arange(way).repeat_interleave(each).expand(len(indices), -1)

        return Episode(*examples(shot, 1), *examples(query, 2), key)


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, tasks: Tasks, *words: str) -> Path:
    """What ``metarun train`` does, on these tasks."""
    monkeypatch.chdir(folder)
    cpu = torch.device("cpu")

    def made(experiment: Experiment, learned: Any = None, **options: Any) -> Setup:
        return assemble(experiment, tasks, cpu, **options)

    monkeypatch.setattr("metarun.runs.run.build", made)
    monkeypatch.setattr("metarun.runs.load.build", made)
    kind = ["dataset=sinusoid"] if isinstance(tasks, Made) and tasks.targets else []
    return run.run(*config.compose([*kind, *WORDS, *words]))


NOTHING, IMAGES, POINTS, CURVE = TaskFigure.none, TaskFigure.images, TaskFigure.points, TaskFigure.curve
INPUTS = {
    "vector": (Made((16,)), 5, None),
    "series": (Made((3, 20)), 5, None),
    "two channels": (Made((2, 6, 6)), 5, None),
    "volume": (Made((1, 4, 4, 4)), 5, None),
    "grey": (Made((1, 6, 6), IMAGES), 5, "episodes.png"),
    "grey, and no image": (Made((1, 6, 6)), 5, None),
    "colour, not square": (Made((3, 4, 7), IMAGES), 2, "episodes.png"),
    "one output": (Made((1, 6, 6), IMAGES, one_output=True), 2, "episodes.png"),
    "plane, three classes": (Made((2,), POINTS), 3, "points.png"),
    "plane, two outputs": (Made((2,), POINTS), 2, "points.png"),
    "plane, twelve classes": (Made((2,), POINTS), 12, "points.png"),
    "plane, one output": (Made((2,), POINTS, one_output=True), 2, "points.png"),
    "two numbers that are no plane": (Made((2,)), 3, None),
    "curve": (Made((1,), CURVE, targets=1), 5, "sinusoid.png"),
    "curve, and what an oracle is told": (Made((3,), CURVE, targets=1), 5, "sinusoid.png"),
    "surface": (Made((2,), targets=1), 5, None),
    "two targets": (Made((1,), targets=2), 5, None),
    "number of an image": (Made((1, 6, 6), targets=1), 5, None),
}


@pytest.mark.drawn
@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", INPUTS)
def test_any_inputs_have_a_result_and_a_picture_where_they_are_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    tasks, way, picture = INPUTS[name]
    out = start(monkeypatch, tmp_path, tasks, *([] if tasks.targets else [f"way={way}"]), "query=3")
    (result,) = find([out])
    assert math.isfinite(result.scores[0].estimate.mean) and (out / "report.md").exists()
    drawn = {path.name for path in out.glob("*.png")}
    assert drawn == {"curves.png", "steps.png"} | ({picture} if picture else set())
    assert not [str(w.message) for w in recwarn if "drawn" in str(w.message)]


@pytest.mark.drawn
def test_a_picture_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("some reason")

    monkeypatch.setattr(task_figures, "draw", fails)
    monkeypatch.setattr(training, "curves", fails)
    with pytest.warns(UserWarning, match=r"\.png: not drawn \('some reason'\)") as caught:
        out = start(monkeypatch, tmp_path, Made((1, 6, 6), IMAGES))
    assert sorted(str(w.message).split(":")[0] for w in caught) == ["curves.png", "episodes.png"]
    assert find([out]) and "curves.png" not in (out / "report.md").read_text()
    assert [path.name for path in out.glob("*.png")] == ["steps.png"]


@pytest.mark.drawn
@pytest.mark.full
def test_a_run_that_dies_while_drawing_is_not_tested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as dying, pytest.raises(SystemExit):
        dying.setattr(training, "curves", dies)
        start(dying, tmp_path, Made((1, 6, 6), IMAGES))
    before = (tmp_path / "run/result.json").read_bytes()
    assert not (tmp_path / "run/report.md").exists()
    monkeypatch.setattr("metarun.runs.meta_test.evaluate", dies)
    out = start(monkeypatch, tmp_path, Made((1, 6, 6), IMAGES))
    assert (out / "result.json").read_bytes() == before
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "steps.png", "episodes.png"}
    capsys.readouterr()
    start(monkeypatch, tmp_path, Made((1, 6, 6), IMAGES))
    assert capsys.readouterr().out.startswith("already done")


class Diverging(Made):
    """Tasks of which a share has outputs that are nan, at validation and test; ``only`` names the split."""

    def __init__(self, share: float, targets: int = 0, only: tuple[Split, ...] = (Split.val, Split.test)):
        Made.__init__(self, (4,), targets=targets)
        self.share, self.only = share, only

    def sample(self, split: Split, *arguments: Any) -> Episode:
        episode = Made.sample(self, split, *arguments)
        hurt = episode.key % 6 < 6 * self.share if split in self.only else torch.zeros_like(episode.key) > 0
        return episode._replace(query_x=episode.query_x.masked_fill(hurt[:, None, None], math.nan))


def valid(path: Path) -> Any:
    """The file's JSON, which must hold no bare NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return [json.loads(text, parse_constant=refuse) for text in path.read_text().split("\n\n") if text]


def test_some_tasks_that_diverge_are_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match=r"2 of 6 tasks .* diverged within 2 inner steps"):
        out = start(monkeypatch, tmp_path, Diverging(1 / 3))
    assert "(2 of 6 tasks diverged)" in capsys.readouterr().out
    (result,) = valid(out / "result.json")
    assert [row["diverged"] for row in result["scores"][0]["by_steps"]] == [2, 2, 2]
    assert result["scores"][0]["diverged"] == 2 and result["scores"][0]["by_steps"][0]["loss"] is None
    assert result["scores"][0]["mean"] <= 4 / 6
    page = (out / "report.md").read_text()
    assert "(2 of 6 tasks diverged)" in page and "(2 tasks diverged)" in page  # of test and of validation
    assert "counts as accuracy 0" in page and f"meta-iteration {result['selected']['step']} of 2.\n" in page
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["diverged"] for line in lines if line["split"] == "val"] == [2, 2]


@pytest.mark.drawn
@pytest.mark.sampled(1)
@pytest.mark.parametrize(("share", "targets"), [(1.0, 0), (1 / 3, 1)])
def test_without_a_figure_all_is_written_and_the_status_is_3(
    share: float, targets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every task diverged, or one of which the error is the mean; and again where it is found done."""
    for _ in range(2):
        with pytest.raises(NotFinite, match=r"diverged within 2 inner steps.*There is no result to report") as caught:
            start(monkeypatch, tmp_path, Diverging(share, targets, only=(Split.test,)))
        assert caught.value.status == 3
        (result,) = valid(tmp_path / "run/result.json")
        assert result["scores"][0]["mean"] == (None if targets else 0)
        assert (tmp_path / "run/report.md").exists() and (tmp_path / "run/steps.png").exists()
    experiment, record = config.reopen(Record.read(tmp_path / "run"), ["eval.tasks=5"])  # type: ignore[arg-type]
    with pytest.raises(NotFinite):
        evaluate_run(tmp_path / "run", experiment, record, experiment.eval.select)
    assert len(list((tmp_path / "run/eval").glob("*/report.md"))) == 1


def test_nothing_is_selected_where_no_validation_has_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="diverge in every validation: nothing is selected, the last"):
        out = start(monkeypatch, tmp_path, Diverging(1.0, only=(Split.val,)))
    assert not (out / "checkpoints/best.pt").exists()
    assert "Tested: last step (no validation has a figure), meta-iteration 2 of 2." in (out / "report.md").read_text()


@pytest.mark.full
def test_an_evaluation_before_the_training_is_done_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, _ = config.compose([*WORDS, "steps=9"])

    def stops(*arguments: Any) -> Any:
        state = train.train(
            dataclasses.replace(arguments[0], experiment=dataclasses.replace(begun, steps=3)), *arguments[1:]
        )
        raise InterruptedError(state.step)

    monkeypatch.setattr(run, "train", stops)
    with pytest.raises(InterruptedError):
        start(monkeypatch, tmp_path, Made((4,)), "steps=9")
    for which in type(begun.eval.select):
        evaluate_run(tmp_path / "run", *config.reopen(Record.read(tmp_path / "run"), []), which)  # type: ignore[arg-type]
    assert {row.algo for row in tables.rows(find([tmp_path]))} == {"maml (unfinished: 3 of 9 meta-iterations)"}


@pytest.mark.full
def test_how_long_a_run_trained_does_not_hang_on_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a result that is none make an unfinished run a finished one."""
    real = train.train

    def loses_its_log(*arguments: Any) -> Any:
        state = real(*arguments)
        (tmp_path / "run/metrics.jsonl").unlink()
        assert state.selection
        state.selection.step = 1
        return state

    monkeypatch.setattr(run, "train", loses_its_log)
    with pytest.warns(UserWarning, match="has no train line of meta-iteration 2"):
        out = start(monkeypatch, tmp_path, Made((4,)), "checkpoint_every=1")
    result = read_result(out / "result.json")
    assert result.trained == 2 and result.selected.step == 1
    assert "unfinished" not in tables.markdown(tables.rows([result]))
    (out / "result.json").write_text("{}")
    (checkpoint.folder(out) / checkpoint.BEST).unlink()
    (checkpoint.folder(out) / checkpoint.PREVIOUS).replace(checkpoint.folder(out) / checkpoint.LAST)
    experiment, record = config.reopen(Record.read(out), [])  # type: ignore[arg-type]
    (out / "metrics.jsonl").write_text(
        '{"step": 7, "split": "train", "loss": 1, "accuracy": 1, "seconds": 1}\n'
    )  # a bit or two are others
    with pytest.warns(UserWarning, match="has no val line of meta-iteration 1"):
        tested = read_result(evaluate_run(out, experiment, record, experiment.eval.select) / "result.json")
    assert tested.trained == 1 and "of a run that had done 1" in tested.protocol["selection"]


@pytest.mark.full
def test_a_result_that_lacks_a_part_is_tested_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its checksum fits all the same: another version wrote it, or another program."""
    out = start(monkeypatch, tmp_path, Made((4,)))
    content = json.loads((out / "result.json").read_text())
    content.pop("libraries")
    (out / "result.json").write_text(json.dumps(sealed(content)))
    (out / "report.md").unlink()
    with pytest.warns(UserWarning, match=r"damaged, or not written by metarun; testing again"):
        start(monkeypatch, tmp_path, Made((4,)))
    assert read_result(out / "result.json").libraries and (out / "report.md").exists()


@pytest.mark.drawn
def test_a_metric_that_is_neither_a_share_nor_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A return, of which larger is better and which may be any number: all that is written of it knows."""
    out = start(monkeypatch, tmp_path, Made((1,), CURVE, targets=1, metric=RETURN), "steps=6")
    (content,), (result,) = valid(out / "result.json"), find([out])
    facts = {"words": "return", "unit": " points", "larger_is_better": True, "scale": 1.0, "digits": 1}
    assert content["metric"] == "return" and content["metric_facts"] == {**facts, "bounds": [None, None]}
    assert result.metric == RETURN and result.scores[0].estimate.mean < 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line["return"] for line in lines if line["split"] == "val"}
    assert result.selected.step == max(validated, key=lambda step: validated[step]), "the largest is the best"
    said = result.scores[0].estimate.text(RETURN)
    assert said.endswith(" points") and f"meta-test return: {said}" in capsys.readouterr().out
    page = (out / "report.md").read_text()
    assert "| norm | meta-test return | tasks |" in page and f"| {said} | 6 |" in page
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "steps.png", "sinusoid.png"}
    assert f"| {said} | 1 |" in tables.markdown(tables.rows([result]))


def test_a_return_that_diverged_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = Diverging(1 / 3, targets=1, only=(Split.test,))
    tasks.metric = RETURN
    with pytest.raises(NotFinite, match="There is no result to report"):
        start(monkeypatch, tmp_path, tasks)
    page = (tmp_path / "run/report.md").read_text()
    assert "counts as an infinitely low return." in page and "not finite (2 of 6 tasks diverged)" in page
