"""The zoo: what its names mean, and that every entry measures what its result says."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

import metarun
from metarun.cli import main as cli
from metarun.config.earlier import opened
from metarun.core.intervals import Estimate
from metarun.errors import ConfigError, UserError
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, zoo
from metarun.runs.load import evaluate_run
from metarun.runs.record import Record
from tests.learner.support import SHORT
from tests.support.own_images import own_images

ROOT = Path(__file__).parents[2] / "zoo"
ENTRIES = zoo.names(ROOT)
FEW = 50  # tasks
MADE = ("cheetah", "navigation", "sinusoid")  # tasks that are not read from disk


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one entry, made of a short run; the working folder is empty."""
    run = metarun.train([*SHORT, "dataset=glyphs", "model.filters=4", f"run_dir={tmp_path / 'run'}"])
    entry = tmp_path / "zoo/glyphs/short"
    checkpoint.folder(entry).mkdir(parents=True)
    for name in ("config.json", "result.json"):
        shutil.copy(run / name, entry / name)
    content = checkpoint.read(checkpoint.folder(run) / checkpoint.BEST)
    (checkpoint.folder(entry) / checkpoint.TESTED).write_bytes(checkpoint.encode(content))
    (tmp_path / "zoo" / zoo.PAGE).write_text("")
    monkeypatch.setattr(zoo, "folder", lambda: tmp_path / "zoo")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_names_and_folders_are_told_apart(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zoo.run_folder("zoo:glyphs/short") == made / "zoo/glyphs/short"
    assert zoo.run_folder("glyphs/short") == Path("glyphs/short") and zoo.run_folder(made) == made
    for wrong, said in (
        (
            "zoo:glyphs/shrt",
            r"zoo:glyphs/shrt: the zoo has no such entry \(did you mean glyphs/short\?\); it has: glyphs",
        ),
        ("zoo:../run", "no such entry"),
        ("zoo:", "no such entry"),
        ("zoo:glyphs", "no such entry"),
    ):
        with pytest.raises(UserError, match=said):
            zoo.run_folder(wrong)
    assert zoo.evaluations(Path("../zoo/glyphs/short")) == Path("outputs/zoo/glyphs/short/eval")
    assert zoo.evaluations(made / "run") == made / "run/eval"
    monkeypatch.setattr(zoo, "folder", lambda: None)
    with pytest.raises(UserError, match="this installation has no zoo"):
        metarun.load("zoo:glyphs/short")


@pytest.mark.full
def test_an_entry_is_like_the_run_that_it_is_of(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parameters of ``load``, the result of ``eval`` and the start of ``init``; the zoo itself stays as it is."""
    run, entry = made / "run", made / "zoo/glyphs/short"
    before = {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()}
    capsys.readouterr()
    there, here = (metarun.load(of, device="cpu") for of in (run, "zoo:glyphs/short"))
    assert there.step == here.step
    assert all(torch.equal(value, here.state_dict()[name]) for name, value in there.state_dict().items())
    assert cli.main(["eval", "run=zoo:glyphs/short", "eval.tasks=20"]) == 0
    assert cli.main(["eval", f"run={run}", "eval.tasks=20"]) == 0
    (of_zoo,) = Path("outputs/zoo/glyphs/short/eval").glob("*/result.json")
    (of_run,) = (run / "eval").glob("*/result.json")
    one, other = read_result(of_zoo), read_result(of_run)
    assert one.scores == other.scores and one.selected == other.selected and one.selected.validation is not None
    assert one.train_seconds == read_result(entry / "result.json").train_seconds > 0, "the run's, without its journal"
    assert capsys.readouterr().err == "", "no warning of a journal that the zoo does not keep"
    words = ["init=zoo:glyphs/short", "dataset=glyphs", "model.filters=4", *SHORT]
    assert cli.main(["train", *words, "run_dir=next"]) == 0
    start = Record.read(Path("next"))
    assert start is not None and start.start is not None and "best on validation" in start.start.told
    assert before == {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()}


def test_other_parameters_than_the_tested_ones_are_refused(made: Path) -> None:
    entry = made / "zoo/glyphs/short"
    assert metarun.load("zoo:glyphs/short", checkpoint="best").step == metarun.load("zoo:glyphs/short").step
    with pytest.raises(ConfigError, match="checkpoint=last: must be best, or left out"):
        metarun.load("zoo:glyphs/short", checkpoint="last")
    path = checkpoint.folder(entry) / checkpoint.TESTED
    content = checkpoint.read(path)
    content["meta"]["head.bias"] = torch.zeros(9)
    path.write_bytes(checkpoint.encode(content))
    with pytest.raises(UserError, match=r"tested\.pt: does not fit this run: head\.bias is float32 \[9\]"):
        metarun.load("zoo:glyphs/short")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        metarun.load("zoo:glyphs/short")


@pytest.mark.full
def test_pictures_are_classified_with_an_entry(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_images(Path("known"), dict.fromkeys(("ant", "bee", "cat", "dog", "eel"), 2))
    assert cli.main(["adapt", "run=zoo:glyphs/short", "support=known", "out=a.model"]) == 0
    assert cli.main(["predict", "model=a.model", "images=known", "out=a.csv"]) == 0
    assert cli.main(["predict", "run=zoo:glyphs/short", "support=known", "images=known", "out=b.csv"]) == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_measures_what_its_result_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The first tasks of its test: their mean is within four standard errors of the whole, at every number of steps."""
    monkeypatch.chdir(tmp_path)
    kind = name.partition("/")[0]
    root = [] if kind in MADE else [f"data_root={request.getfixturevalue('data_root')}"]
    if kind == "cheetah":
        pytest.importorskip("mujoco", reason="needs pip install 'metarun[mujoco]', which the dev extra contains")
    entry = zoo.run_folder(f"zoo:{name}")
    told = read_result(entry / "result.json")
    few = 10 if kind == "cheetah" else FEW  # there, a task is 16,000 steps of a simulated robot
    few = min(few, told.scores[0].estimate.tasks or few)
    x, record = opened(entry, None, [f"eval.tasks={few}", "device=cpu", "device.compile=false", *root])
    found = read_result(evaluate_run(entry, x, record, x.eval.select) / "result.json")
    for there, here in zip(told.scores, found.scores, strict=True):
        assert there.norm is here.norm
        for before, now in zip(there.by_steps, here.by_steps, strict=True):
            assert abs(now.estimate.mean - before.estimate.mean) <= 4 * error(before.estimate, few) + 1e-4


def error(whole: Estimate, few: int) -> float:
    """Standard error of the mean over the first tasks, from the interval over all of them."""
    assert whole.tasks is not None
    deviation = whole.ci95 / 1.96 * math.sqrt(whole.tasks)
    return deviation * math.sqrt(1 / few - 1 / whole.tasks)
