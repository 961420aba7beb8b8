"""Runs on a user's own table: the report, and tests on another file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metarun.cli import main as cli
from metarun.results.result_file import read
from tests.support.own_tables import NUMBERS, QUICK, STATES, changed, sensors, write

QUIET = [*QUICK, "data_root=.", "device.threads=1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the table in it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sensors.csv")
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert cli.main([*words]) == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "error" in line)
    return line


def error(run: Path, steps: int = -1) -> tuple[float, float]:
    """The normalised error of a test after inner steps, and the same in degrees."""
    after = read(run / "result.json").scores[0].by_steps[steps]
    return after.estimate.mean, after.beside["rmse of temperature"]


@pytest.mark.drawn
@pytest.mark.full
def test_a_report_states_an_error_of_numbers_in_their_unit_and_beside_a_known_solution(folder: Path) -> None:
    assert cli.main(["train", *NUMBERS, *QUIET, "dataset.split=part", "run_dir=run"]) == 0
    page = (folder / "run" / "report.md").read_text()
    for said in (
        "| norm | meta-test normalised_mse | tasks | rmse of temperature |",
        "On the same tasks: mean of the support targets ",
        "![Test tasks: predicted against true values",
        "| split | own 6/2/2 tasks by machine, by part |",
        "| inputs | speed [rpm], load; normalised by the meta-training rows |",
        "| interval | over rows drawn from the 2 test tasks; other tasks are not in it |",
        "| targets | temperature (an error of 1 is ",
    ):
        assert said in page, said
    assert (folder / "run" / "fit.png").stat().st_size > 5000 and "sinusoid.png" not in page


def test_another_file_is_prepared_as_the_run_was_trained(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *NUMBERS, *QUIET, "dataset.split=part", "run_dir=run"]) == 0
    header, *rows = sensors()
    others = [[f"N{row[0][1:]}", *row[1:]] for row in rows if row[-1] == "test"]
    write(folder / "others.csv", [header, *others])  # no meta-training rows from which a mean could be learned
    assert cli.main(["eval", "run=run", "dataset.path=others.csv"]) == 0
    (again,) = (folder / "run" / "eval").iterdir()
    assert error(again) == error(folder / "run")
    assert read(again / "result.json").protocol["split"] == "own 0/0/2 tasks by machine, by part"

    hot = [[*row[:3], str(float(row[3]) + 1000), *row[4:]] for row in others]
    write(folder / "others.csv", [header, *hot])  # by the mean of its own it would look like any other
    assert cli.main(["eval", "run=run", "dataset.path=others.csv"]) == 0
    (hot_test,) = (path for path in (folder / "run" / "eval").iterdir() if path != again)
    assert error(hot_test, 0)[1] == pytest.approx(1000, rel=0.1)

    said = refused(capfd, "eval", "run=run", "dataset.path=others.csv", "dataset.features=[load]")
    assert "inputs: the run was trained with speed [rpm], load; this test has load" in said
    assert "normalise: the run was trained with each; this test has none" in refused(
        capfd, "eval", "run=run", "dataset.normalise=false"
    )
    assert "targets: the run was trained with temperature; this test has power" in refused(
        capfd, "eval", "run=run", "dataset.target=[power]"
    )
    said = refused(capfd, "eval", "run=run", "dataset.split=null", "dataset.shares=[0,0,1]")
    assert "dataset.split, dataset.shares: of the 10 test tasks 6 were meta-trained on (M0" in said


def test_a_file_without_training_rows_is_tested_as_it_is_where_nothing_is_normalised(folder: Path) -> None:
    words = [
        *NUMBERS,
        *QUIET,
        "dataset.split=part",
        "dataset.normalise=false",
        "algo.inner_lr=1e-8",
        "algo.outer_lr=1e-8",
    ]
    assert cli.main(["train", *words, "run_dir=run"]) == 0
    header, *rows = sensors()
    write(folder / "others.csv", [header, *([f"N{row[0]}", *row[1:]] for row in rows if row[-1] == "test")])
    assert cli.main(["eval", "run=run", "dataset.path=others.csv"]) == 0
    (again,) = (folder / "run" / "eval").iterdir()
    assert error(again) == error(folder / "run") and error(again)[0] > 100


def test_classes_keep_their_labels_in_a_test_on_another_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *STATES, *QUIET, "run_dir=run"]) == 0
    header, *rows = sensors()
    others = [["N", *row[1:5], "off" if row[5] == "run" else "idle", "test"] for row in rows]
    write(folder / "others.csv", [header, *others])
    said = refused(capfd, "eval", "run=run", "dataset.path=others.csv")
    assert "class off (line 3) is none of those of the run: idle, run" in said
    said = refused(capfd, "eval", "run=run", "dataset.task=null", "dataset.split=null")
    assert "predict: the run was trained with classes in tasks that the data name; this test has classes in" in said

    write(folder / "sensors.csv", changed(3, "load", "1.5"))
    said = refused(capfd, "train", *STATES, *QUIET, "run_dir=run")
    assert "pool_sha256" in said
    assert json.loads((folder / "run" / "config.json").read_text())["data"]["learned"]["classes"] == ["idle", "run"]
