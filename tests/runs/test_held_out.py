"""Nothing is tested on what it was trained on, through no door."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun import config
from metarun.cli import main as cli
from metarun.datasets.base import Split
from metarun.datasets.omniglot import NamedSplit
from metarun.datasets.sampler import ClassPool
from metarun.errors import UserError
from metarun.results import tables
from metarun.results.result_file import find
from metarun.runs import held_out
from metarun.runs.record import CONFIG, Record
from tests.support.own_images import COUNTS, QUICK, own_images
from tests.support.results import result, told

MORE = [*QUICK, "dataset=image_folder", "dataset.path=mine", "data_root=.", "steps=2", "query=1"]


def omniglot(split: NamedSplit) -> held_out.Facts:
    return {
        "classes": {part.name: [str(c) for c in chosen] for part, chosen in split.characters().items()},
        "pool_sha256": None,
    }


def refusal(trained: held_out.Facts | None, tested: held_out.Facts, selected: bool = False, **asked: Any) -> str:
    with pytest.raises(UserError) as caught:
        held_out.refuse_trained(trained, {"split": "maml"}, tested, {"split": "maml", **asked}, selected, "run=r")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_test_classes_of_the_training_are_counted() -> None:
    maml, lake, vinyals = (omniglot(split) for split in (NamedSplit.maml, NamedSplit.lake, NamedSplit.vinyals))
    said = refusal(maml, lake, split="lake")
    assert said.startswith("run=r: dataset.split: of the 659 test classes 442 were meta-trained on (964, 965, 966 and")
    assert "select" not in said
    said = refusal(maml, lake, True, split="lake")
    assert "442 were meta-trained on" in said and "and 43 were used to select its parameters" in said
    held_out.refuse_trained(maml, {"split": "maml"}, maml, {"split": "maml"}, True, "")
    held_out.refuse_trained(lake, {"split": "lake"}, vinyals, {"split": "vinyals"}, True, "")  # inside lake's test
    assert "kept no list" in refusal(None, lake, split="lake")
    held_out.refuse_trained(None, {"split": "maml", "size": 28}, maml, {"split": "maml", "size": 20}, True, "")


def test_where_splits_share_their_classes_the_data_must_be_the_same() -> None:
    def shared(pool: str) -> held_out.Facts:
        return {"classes": dict.fromkeys(("train", "val", "test")), "pool_sha256": pool}

    held_out.refuse_trained(shared("a"), {}, shared("a"), {}, True, "")
    assert "pool_sha256: a there, b here" in refusal(shared("a"), shared("b"))
    assert "test classes: 423 more" in refusal(shared("a"), omniglot(NamedSplit.maml), split="maml")


def test_turns_of_a_class_are_that_class() -> None:
    turned = config.compose(["dataset=glyphs"])[0].dataset.load(Path("unused"), torch.device("cpu"))
    assert isinstance(turned, ClassPool)
    names = [turned.class_names(split) or [] for split in Split]
    assert sum(map(len, names)) == len({name for part in names for name in part}) > 100
    drawn = turned.drawn(Split.test, 0, range(7, 12), way=5)
    assert all(len(set(task)) == 5 and set(task) <= set(names[2]) for task in drawn)
    assert drawn[1:] == turned.drawn(Split.test, 0, range(8, 12), way=5)


def test_what_changed_is_said_in_words() -> None:
    before: held_out.Facts = {"classes": {"train": ["a", "b"], "val": [], "test": ["c"]}, "pool_sha256": "x"}
    now = {"classes": {"train": ["a", "k", "l"], "val": [], "test": ["c"]}, "pool_sha256": "y"}
    said = "train classes: 2 more (k, l) and 1 fewer (b); pool_sha256: x there, y here"
    assert held_out.differences(before, now) == said
    turned = {**before, "classes": {**before["classes"], "train": ["b", "a"]}}
    assert held_out.differences(before, turned) == "train classes: another order"
    assert held_out.differences(before, before) == held_out.differences(None, now) == ""
    assert held_out.sound(before) and held_out.sound(None)
    damaged: list[Any] = [1, {}, {"classes": {}}, {**before, "pool_sha256": 3}, {**before, "classes": [1]}]
    for wrong in damaged:
        assert not held_out.sound(wrong)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on image folders, in run/."""
    monkeypatch.chdir(tmp_path)
    own_images(tmp_path / "mine")
    assert cli.main(["train", "run_dir=run", *MORE]) == 0
    return tmp_path


@pytest.mark.full
@pytest.mark.filterwarnings("always:run=run")
def test_every_door_knows_the_classes_of_a_run(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        capfd.readouterr()
        assert cli.main([*words]) == 2
        (line,) = (line for line in capfd.readouterr().err.splitlines() if "error" in line)
        return line

    record = Record.read(trained / "run")
    assert record is not None and record.data is not None
    assert sorted(name for names in record.data["classes"].values() for name in names) == sorted(COUNTS)
    assert "of the 3 test classes" in refused("eval", "run=run", "dataset.split_seed=1")
    assert "meta-trained on" in refused("eval", "run=run", "dataset.shares=[0.2,0.0,0.8]")
    assert cli.main(["eval", "run=run", "eval.query=2"]) == 0

    own_images(trained / "mine", {"kiwi": 4, "lynx": 4})
    assert "data (" in refused("train", "run_dir=run", *MORE) and "1 more" in refused("train", "run_dir=run", *MORE)
    capfd.readouterr()
    assert cli.main(["eval", "run=run"]) == 0  # the classes moved, and by chance none of training's into the test
    assert "tested on other data than it was trained on" in capfd.readouterr().err
    assert cli.main(["train", "run_dir=second", "seed=1", *MORE]) == 0
    rows = tables.rows(find([trained / "run" / "result.json", trained / "second"]))
    assert [row.seeds for row in rows] == [1, 1]
    assert all("pool_sha256" in row.split for row in rows) and rows[0].split != rows[1].split

    shutil.copytree(trained / "run", trained / "old")  # of before folders kept their classes
    old = json.loads((trained / "old" / CONFIG).read_text())
    del old["data"], old["sha256"]
    (trained / "old" / CONFIG).write_text(json.dumps(old))
    assert "kept no list" in refused("eval", "run=old", "dataset.split_seed=1")
    assert cli.main(["eval", "run=old"]) == 0  # what is not known is taken for right, as before


def test_results_that_say_nothing_of_their_data_still_merge() -> None:
    plain, x, y = result(0), told(result(1), data_sha256="x"), told(result(2), data_sha256="y")
    assert [row.seeds for row in tables.rows([plain, x])] == [2]
    several = [y, x, told(result(3), data_sha256="x")]
    assert sorted(row.seeds for row in tables.rows(several)) == [1, 2]
    split = result().protocol["split"]
    assert sorted(row.split for row in tables.rows(several)) == [f"{split}, data_sha256 {of}" for of in "xy"]


def test_runs_of_the_former_vinyals_split_are_refused(tmp_path: Path) -> None:
    values = {"dataset": {"split": "vinyals"}}
    with pytest.raises(UserError, match="random list of characters"):
        held_out.refuse_renamed_split(None, {"dataset": "omniglot"}, values, "run=old")
    held_out.refuse_renamed_split(omniglot(NamedSplit.vinyals), {"dataset": "omniglot"}, values, "run=new")
    held_out.refuse_renamed_split(None, {"dataset": "omniglot"}, {"dataset": {"split": "maml"}}, "run=old")
