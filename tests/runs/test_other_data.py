"""A trained run is tested on another data set, where its inputs fit and no test class was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metarun.cli import main as cli
from metarun.config import compose
from metarun.datasets.base import Split
from metarun.errors import ConfigError, UserError
from metarun.results import tables
from metarun.results.result_file import find
from metarun.results.result_file import read as read_result
from metarun.runs.held_out import Trained, compared, refuse_seen
from metarun.runs.record import trained_elsewhere
from tests.support.listed_images import write_folders, write_list
from tests.support.own_images import own_images

TINY = [
    *("model=mlp", "model.hidden=[6]", "meta_batch=2", "steps=2", "eval.every=2", "eval.val_tasks=2", "eval.tasks=8"),
    *("device.compile=false", "way=2", "query=2"),
]
OWN = ["dataset=image_folder", "dataset.path=mine", "dataset.grey=true", "dataset.shares=[0.5,0.2,0.3]", "data_root=."]


def facts(train: list[str], test: list[str]) -> dict[str, Any]:
    return {"classes": {"train": train, "val": [], "test": test}, "pool_sha256": None}


def test_classes_of_two_data_sets_are_compared_by_name() -> None:
    glyphs = Trained(what="glyphs", kind="glyphs", settings={}, data=facts(["A", "B"], ["C"]), selected=True)
    own = facts(["x"], ["B", "ant"])
    assert compared(glyphs, own)
    with pytest.raises(UserError, match="of the 2 test classes 1 were meta-trained on"):
        refuse_seen(glyphs, own, "image_folder", {}, "run=a")
    refuse_seen(glyphs, facts([], ["ant", "C"]), "image_folder", {}, "run=a")
    numbered = facts(["0", "1"], ["2"])  # as those of Omniglot: the numbers mean nothing elsewhere
    assert not compared(glyphs, numbered)
    refuse_seen(glyphs, numbered, "omniglot", {}, "run=a")
    refuse_seen(Trained(what="x", kind=None, settings={}, data=None, selected=False), own, "image_folder", {}, "")
    omniglot = Trained(what="omniglot", kind="omniglot", settings={}, data=numbered, selected=False)
    refuse_seen(omniglot, facts([], ["0", "1"]), "image_folder", {}, "run=a")


@pytest.mark.filterwarnings("always:dataset=image_folder")
def test_glyphs_and_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    own_images(tmp_path / "mine")
    assert cli.main(["train", *TINY, "run_dir=a"]) == 0

    def refused(*words: str) -> str:
        capsys.readouterr()
        assert cli.main(["eval", "run=a", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert cli.main(["eval", "run=a", *OWN, "dataset.size=28"]) == 0
    assert "dark and light are the other way round than in training" in capsys.readouterr().err
    (file,) = (tmp_path / "a/eval").glob("*/result.json")
    result = read_result(file)
    assert file.parent.name.startswith("image_folder_") and result.names["dataset"] == "image_folder"
    assert result.protocol["trained_on"] == "glyphs; classes of both data sets were compared by name"
    assert result.config["trained on"] == "glyphs" and result.config["dataset.path"] == "mine"
    rows = tables.rows(find([tmp_path / "a"]))
    assert [row.seeds for row in rows] == [1, 1]
    assert "inputs [1, 28, 28], as in training; its own are [1, 16, 16]; try dataset.size=28" in refused(
        *OWN, "dataset.size=16"
    )
    assert "its own are [3, 28, 28]; try dataset.grey=true" in refused(*OWN[:2], *OWN[3:], "dataset.size=28")
    assert "its own are [3, 16, 16]; try dataset.size=28 dataset.grey=true" in refused(
        *OWN[:2], *OWN[3:], "dataset.size=16"
    )
    assert "tasks of the kind that glyphs has" in refused("dataset=sinusoid")
    assert "must be one of" in refused("dataset=sinusiod")


def test_only_settings_that_there_are_and_that_suffice_are_named() -> None:
    def said(trained: str, asked: str) -> str:
        (was, record), (now, _) = (compose([f"dataset={name}"]) for name in (trained, asked))
        with pytest.raises(ConfigError) as caught:
            trained_elsewhere(record, was.dataset, now.dataset, asked)
        return str(caught.value).partition("its own are ")[2]

    assert said("cifar_fs", "cub") == "[3, 84, 84]; try dataset.size=32"
    assert said("omniglot", "cifar_fs") == "[3, 32, 32]; try dataset.size=28 dataset.grey=true"
    assert said("cifar_fs", "emnist") == "[1, 28, 28]; try dataset.size=32 dataset.grey=false"
    assert said("cifar_fs", "omniglot") == "[1, 28, 28]", "there is no setting for three channels"
    assert said("cifar_fs", "glyphs") == "[1, 28, 28]"


@pytest.mark.filterwarnings("always:dataset=class_list")
def test_colour_photographs_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = {Split.train: [], Split.val: [], Split.test: ["ant", "bee", "cat"]}
    write_folders(tmp_path / "mine", listed)
    write_list(tmp_path / "mine.json", listed)
    assert cli.main(["train", *TINY, "run_dir=a"]) == 0
    other = ["dataset=class_list", "dataset.path=mine", "dataset.split=mine.json", "data_root=."]
    capsys.readouterr()
    assert cli.main(["eval", "run=a", *other]) == 2
    assert "its own are [3, 84, 84]; try dataset.size=28 dataset.grey=true" in capsys.readouterr().err
    assert cli.main(["eval", "run=a", *other, "dataset.size=28", "dataset.grey=true"]) == 0
    assert "the other way round" in capsys.readouterr().err
    (file,) = (tmp_path / "a/eval").glob("*/result.json")
    assert read_result(file).protocol["resize"] == "centre square, lanczos 28x28, grey"
    assert read_result(file).protocol["split"] == "own 0/0/3, mine.json"
