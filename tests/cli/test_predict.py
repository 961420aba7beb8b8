"""``metarun adapt`` and ``metarun predict``, in an empty folder, without the data of the training."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from metarun.cli import main as cli
from tests.learner.support import short_run
from tests.support.own_images import QUICK, own_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    root = own_images(folder / "images")
    trained = short_run(folder / "run", "dataset=image_folder", f"dataset.path={root}", *QUICK[:3], *QUICK[7:])
    root.rename(folder / "gone")
    return trained


@pytest.fixture
def here(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run, a support set and photos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(run)
    own_images(tmp_path / "known", {"ant": 2, "bee": 3})
    for name in ("ant", "bee"):
        for i in range(2):
            (tmp_path / "new" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + i, 16), (40 * i, 90, 200)).save(tmp_path / "new" / name / f"{i}.png")
    return tmp_path


def test_adapt_then_predict(here: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "adapt run=run support=known out=insects.model device=cpu algo.eval_inner_steps=2"
    assert cli.main(words.split()) == 0
    out, err = capsys.readouterr()
    assert "2 classes (ant, bee), 5 pictures, 2 inner steps" in out and "written: insects.model" in out and err == ""
    (here / "run").unlink()  # neither the run nor the support set is needed any more
    (here / "known").rename(here / "moved")
    assert cli.main(["predict", "model=insects.model", "images=new", "device=cpu"]) == 0
    out, err = capsys.readouterr()
    assert "4 pictures, 2 classes" in out and "norm support" in out and "95 % interval" in out and err == ""
    assert sorted(path.name for path in here.glob("predictions*")) == [
        *("predictions.csv", "predictions.png", "predictions_confusion.csv", "predictions_confusion.png")
    ]
    rows = list(csv.DictReader((here / "predictions.csv").read_text().splitlines()))
    assert [row["truth"] for row in rows] == ["ant", "ant", "bee", "bee"]
    for name in ("predictions.png", "predictions_confusion.png"):
        with Image.open(here / name) as figure:
            assert figure.size[0] > 100
    same = f"predict run={run} support=moved images=new device=cpu algo.eval_inner_steps=2 out=again.csv"
    assert cli.main(same.split()) == 0
    assert (here / "again.csv").read_text() == (here / "predictions.csv").read_text()


def test_unreadable_pictures_are_rows_and_a_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "new/bee/broken.png").write_bytes(b"x")
    words = "predict run=run support=known new/ant/0.png new/bee/broken.png device=cpu out=out.csv"
    assert cli.main(words.split()) == 1
    out, err = capsys.readouterr()
    assert "accuracy" not in out and err.count("\n") == 1
    assert "1 of 2 pictures could not be read: new/bee/broken.png (no image that Pillow knows)" in err
    rows = list(csv.DictReader((here / "out.csv").read_text().splitlines()))
    assert rows[1]["label"] == "" and rows[1]["reason"] == "unreadable: no image that Pillow knows"
    assert cli.main(["predict", "run=run", "support=known", "new/bee/broken.png", "device=cpu"]) == 1


WRONG = {  # command -> words of its one line
    "adapt run=run support=known": "out: has no value",
    "adapt run=nowhere support=known out=m": "run=nowhere: is no run folder",
    "adapt run=run support=nowhere out=m": "support=nowhere: is no folder",
    "adapt run=run support=known out=known": "out=known: must be a plain file",
    "adapt run=run support=known out=no/m": "out=no/m: must be a plain file in an existing folder",
    "adapt run=run support=known out=m eval.tasks=5": "eval.tasks=5: adapt does not read it",
    "adapt run=run support=known out=m algo.inner_steps=5": "algo.inner_steps=5: only training reads",
    "adapt run=run support=known out=m checkpoint=bst": "checkpoint=bst: must be one of best, last (did",
    "predict images=new": "model=null: must be given, or else run=PATH support=DIR",
    "predict run=run images=new": "support: has no value",
    "predict model=m run=run images=new": "model=m: must be given, or else run=PATH",
    "predict model=m support=known images=new": "model=MODEL is adapted already",
    "predict run=run support=known": "images: has no value",
    "predict run=run support=known images=nowhere": "images=nowhere: there is no such file or folder",
    "predict model=nowhere images=new": "nowhere: there is no such file",
    "predict model=new/ant/0.png images=new": "0.png: is damaged, or no file that metarun adapt wrote",
    "predict model=run/checkpoints/last.pt images=new": "last.pt: is a checkpoint",
    "predict run=run support=known images=new eval.norm=suport": "eval.norm=suport: must be one of transductive",
    "predict run=run support=known eval.norm=transductive new/ant/0.png": (
        "eval.norm=transductive: must be support or support_plus_one for 1 pictures"
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_is_one_line(words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and WRONG[words] in err


def test_a_run_without_pictures_is_for_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short_run(here / "waves", "dataset=sinusoid")
    capsys.readouterr()
    assert cli.main(["predict", "run=waves", "support=known", "images=new"]) == 2
    assert "dataset=sinusoid has no pictures; metarun.load in Python" in capsys.readouterr().err
