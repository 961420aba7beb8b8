"""Early stopping: after so many validations without a better one, and told with the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metarun import config
from metarun.cli import main as cli
from metarun.errors import ConfigError
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, journal
from metarun.runs.record import Record
from tests.support.own_images import QUICK, own_images
from tests.support.runs import outcome

STILL = [  # nothing changes, so that the first validation stays the best
    *("dataset=sinusoid", "model=mlp", "model.hidden=[4]", "meta_batch=2", "eval.every=2", "eval.val_tasks=4"),
    *("eval.tasks=8", "algo.inner_steps=1", "device.compile=false", "algo.outer_lr=1e-30", "steps=20"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_count_of_validations() -> None:
    evaluation = config.compose(["eval.every=10", "eval.patience=2"])[0].eval
    assert [evaluation.exhausted(step, 20) for step in (20, 30, 39, 40)] == [False, False, False, True]
    assert [evaluation.exhausted(step, 0) for step in (10, 20)] == [False, True]  # no validation has a figure
    assert not config.compose(["eval.every=10"])[0].eval.exhausted(10**6, 10)


@pytest.mark.full
@pytest.mark.parametrize("select", ["best", "last"])
def test_a_run_stops_and_says_where(here: Path, capsys: pytest.CaptureFixture[str], select: str) -> None:
    words = ["train", *STILL, "eval.patience=3", f"eval.select={select}", "checkpoint_every=5"]
    assert cli.main([*words, "run_dir=a"]) == 0
    assert "stopped early after meta-iteration 8 of 20 (eval.patience=3)" in capsys.readouterr().out
    result = read_result(here / "a/result.json")
    step = 2 if select == "best" else 8
    assert (result.trained, result.selected.step, result.selected.of) == (8, step, 20)
    assert result.stopped_early and not result.unfinished
    assert result.protocol["selection"].endswith(f"meta-iteration {step} of 20, of a run that stopped early after 8")
    assert result.protocol["patience"] == "3 validations, one every 2 meta-iterations"
    assert checkpoint.read(here / "a/checkpoints/last.pt")["step"] == 8
    assert [line["step"] for line in journal.read(here / "a") if line["split"] == "val"] == [2, 4, 6, 8]
    for which in ("best", "last"):
        assert cli.main(["eval", "run=a", f"checkpoint={which}"]) == 0
    for path in (here / "a/eval").glob("*/result.json"):
        again = read_result(path)
        assert again.stopped_early and again.trained == 8
    kept = outcome(here / "a")
    (here / "a/result.json").unlink()  # as if it had been killed before the test
    assert cli.main([*words, "run_dir=a"]) == 0
    assert outcome(here / "a") == kept


def test_a_run_that_gets_better_goes_on_and_is_as_without(here: Path) -> None:
    better = [word for word in STILL if "outer_lr" not in word]
    assert cli.main(["train", *better, "eval.patience=20", "run_dir=a"]) == 0
    assert cli.main(["train", *better, "run_dir=b"]) == 0
    (a, b) = (checkpoint.read(here / name / "checkpoints/last.pt") for name in ("a", "b"))
    assert checkpoint.digest(a["meta"]) == checkpoint.digest(b["meta"])
    result = read_result(here / "a/result.json")
    assert not result.stopped_early and result.trained == 20
    content = json.loads((here / "b/config.json").read_text())
    record = Record.read(here / "b")
    assert record is not None and content["values"]["eval"].pop("patience", 0) is None
    del content["sha256"]  # a run from before there was patience
    (here / "b/config.json").write_text(json.dumps(content))
    older = Record.read(here / "b")
    assert older is not None and older.hash() == record.hash() and config.reopen(older, [])[0].eval.patience is None


def test_patience_needs_validation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"eval\.patience=2: must be null where eval\.every=0"):
        config.compose(["eval.every=0", "eval.patience=2"])
    with pytest.raises(ConfigError, match=r"eval\.patience=0: must be >= 1"):
        config.compose(["eval.patience=0"])
    own_images(here / "mine")
    words = [*QUICK, "dataset=image_folder", "dataset.path=mine", "data_root=.", "eval.patience=2"]
    words += ["dataset.shares=[0.6,0.0,0.4]"]
    assert cli.main(["train", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "eval.patience=2: must be null: there are no validation tasks" in line and not (here / "outputs").exists()


def test_a_run_that_stopped_has_nothing_to_extend(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *STILL, "eval.patience=1", "run_dir=a"]) == 0
    capsys.readouterr()
    assert cli.main(["train", *STILL, "eval.patience=1", "run_dir=a", "steps=30", "extend=true"]) == 2
    assert "stopped early (eval.patience)" in capsys.readouterr().err
