"""A finished run goes on: as one run of the whole length, or it says that it is not; the shorter one is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun import config
from metarun.cli import main as cli
from metarun.datasets.base import Split
from metarun.errors import ConfigError
from metarun.results.result_file import find
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, extend, journal
from metarun.runs.record import Record
from metarun.runs.setup import build
from tests.support.commands import ON_IMAGES

TINY = [
    *("dataset=sinusoid", "model=mlp", "model.hidden=[4]", "meta_batch=2", "eval.every=4", "eval.val_tasks=4"),
    *("eval.tasks=8", "algo.inner_steps=1", "device.compile=false", "checkpoint_every=3", "log_every=4"),
]
CONSTANT = [*TINY, "algo.outer_schedule=none"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*words: str) -> None:
    assert cli.main(["train", *words]) == 0


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main(["train", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def state(run_dir: str) -> tuple[Any, ...]:
    """What a training has made, without the settings that are stored beside it, and its curve."""
    last, best = (checkpoint.read(Path(run_dir) / "checkpoints" / f"{name}.pt") for name in ("last", "best"))
    for content in (last, best):
        del content["training"]
    lines = [{k: v for k, v in line.items() if k not in CLOCK} for line in journal.read(Path(run_dir))]
    return checkpoint.digest(last), checkpoint.digest(best), lines


CLOCK = ("seconds", "tasks_per_s", "seal")


@pytest.mark.full
def test_more_steps_end_as_one_run_of_that_length(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("run_dir=once", "steps=16", *CONSTANT)
    train("run_dir=a", "steps=4", *CONSTANT)
    short = read_result(here / "a/result.json")
    train("run_dir=a", "steps=8", "extend=true", *CONSTANT)
    words = ["run_dir=a", "steps=16", "extend=true", *CONSTANT]
    train(*words)
    assert "extended after 4, 8 meta-iterations; the same as a run of 16 at once" in capsys.readouterr().out
    assert state("a") == state("once")
    whole, result = (read_result(here / name / "result.json") for name in ("once", "a"))
    assert str(result.scores) == str(whole.scores)
    assert result.protocol["extended"] == "after 4, 8 meta-iterations; the same as a run of 16 at once"
    assert result.config["extended (steps)"] == [4, 8] and "extended" not in whole.protocol
    assert str(read_result(here / "a/4_steps/result.json")) == str(short)
    assert {of.trained for of in find([here / "a"])} == {4, 8, 16}
    before = (here / "a/checkpoints/last.pt").stat().st_mtime_ns
    train(*words)  # the same command again
    assert (here / "a/checkpoints/last.pt").stat().st_mtime_ns == before
    assert "extended (steps)" in refused(capsys, *[word for word in words if word != "extend=true"])
    for run in ("a", "a/4_steps", "a/8_steps"):
        assert cli.main(["eval", f"run={run}", "eval.tasks=4"]) == 0
    (again,) = (here / "a/eval").glob("*/result.json")
    assert read_result(again).protocol["extended"] == result.protocol["extended"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algo.outer_schedule=cosine"], "algo.outer_schedule was at its end after 6, and went on as at 50% of 12"),
        (["algo=mamlpp", "algo.outer_schedule=none"], "algo.multi_step_until was at its end after 6"),
        (["algo.outer_schedule=none"], "it was also validated after 6"),
        (["algo.outer_schedule=none", "eval.every=3"], "the same as a run of 12 at once"),
        (["algo.outer_schedule=none", "eval.every=0", "device.compile=auto", "steps=60"], "is traced or compiled"),
        (["algo.outer_schedule=none", "eval.every=0", "device.compile=auto"], "the same as a run of 12 at once"),
    ],
)
def test_what_makes_it_another_run_is_said(words: list[str], said: str) -> None:
    experiment, _ = config.compose([*TINY, "steps=12", *words])
    setup = build(experiment)
    steps = experiment.steps // 2 if experiment.steps == 12 else 6
    assert said in extend.stamp({str(steps): extend.differences(setup, steps)}, experiment.steps)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ON_IMAGES)
def test_a_method_that_depends_on_the_length_says_so(name: str) -> None:
    words = [] if name == "mamlpp" else ["algo.outer_schedule=none"]
    setup = build(config.compose([f"algo={name}", "model=mlp", "model.hidden=[4]", "device.compile=false", *words])[0])
    x, meta = setup.experiment, setup.first_meta()
    tasks = setup.tasks.sample(Split.train, 0, range(2), x.way, *x.training_shots())
    begin, end = (setup.meta_gradient()(meta, tasks, progress)[0].flat() for progress in (0.01, 0.9))
    moved = any(not torch.equal(begin[key], end[key]) for key in begin)
    assert moved == bool(set(x.algo.depends_on_length()) - {"algo.outer_schedule"})


@pytest.mark.full
def test_what_cannot_be_extended_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="extend=true: must be false without run_dir"):
        config.compose(["extend=true"])
    assert "holds no run" in refused(capsys, "run_dir=a", "extend=true", "steps=9", *CONSTANT)
    train("run_dir=a", "steps=4", *CONSTANT)
    for steps in ("3", "4"):
        assert "must be > 4 with" in refused(capsys, "run_dir=a", "extend=true", f"steps={steps}", *CONSTANT)
    other = refused(capsys, "run_dir=a", "extend=true", "steps=9", "seed=1", *CONSTANT)
    assert "another configuration (seed: 0 there, 1 here)" in other
    (here / "a/result.json").unlink()
    assert "is not finished" in refused(capsys, "run_dir=a", "extend=true", "steps=9", *CONSTANT)
    assert not (here / "a/4_steps").exists()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("where", ["rename", "unlink", "write"])
def test_a_process_that_ends_while_it_keeps_the_shorter_run(
    here: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any point: the same command does the rest, and no result is lost."""
    train("run_dir=a", "steps=4", *CONSTANT)
    kept = (here / "a/result.json").read_bytes()
    words = ["train", "run_dir=a", "extend=true", "steps=8", *CONSTANT]

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record if where == "write" else Path, where, killed)
        assert cli.main(words) == 130
    found = [path for path in (here / "a/result.json", here / "a/4_steps/result.json") if path.exists()]
    assert found and all(path.read_bytes() == kept for path in found)
    assert where != "write" or not list((here / "a").glob("report.*")), "pages of the shorter run are in its own folder"
    assert cli.main(words) == 0
    assert (here / "a/4_steps/result.json").read_bytes() == kept
    assert not [name for name in os.listdir(here / "a") if name.endswith(".tmp")]
    train("run_dir=once", "steps=8", *CONSTANT)
    assert state("a") == state("once")


@pytest.mark.filterwarnings("default:.*damaged checkpoint")
def test_a_damaged_last_checkpoint_goes_on_from_the_one_before(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("run_dir=a", "steps=8", *CONSTANT)
    train("run_dir=once", "steps=12", *CONSTANT)
    (here / "a/checkpoints/last.pt").write_bytes(b"damaged")
    capsys.readouterr()
    train("run_dir=a", "steps=12", "extend=true", *CONSTANT)
    assert "last.pt: damaged checkpoint" in capsys.readouterr().err
    assert state("a")[:2] == state("once")[:2]
