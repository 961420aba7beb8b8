from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from metarun import config
from metarun.cli import main as cli
from metarun.datasets import image_folder
from metarun.datasets.base import Split
from metarun.datasets.class_folders import find
from metarun.datasets.image_folder import Division, ImageFolder
from metarun.datasets.imagefile import centre_square
from metarun.datasets.sampler import ClassPool
from metarun.errors import ConfigError, UserError
from metarun.files import write_json
from metarun.runs.record import Record
from metarun.runs.setup import build
from tests.support.commands import Command
from tests.support.own_images import COUNTS, QUICK, SIZE, own_images

CPU = torch.device("cpu")


def broken(root: Path) -> list[str]:
    """Three files of the class bee that cannot be read, each in its way."""
    whole = (root / "bee" / "0.jpg").read_bytes()
    contents = {"cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "text.gif": b"no image at all"}
    for name, content in contents.items():
        (root / "bee" / name).write_bytes(content)
    return [f"bee/{name}" for name in contents]


def settings(**changed: object) -> ImageFolder:
    values: dict = {"path": "images", "size": SIZE, "grey": False, "shares": [0.5, 0.2, 0.3], "split_seed": 0}
    values |= {"split": Division.shares, "layers": 1, "min_images": 0, "white": None, "strict": False}
    return ImageFolder(**{**values, **changed})


def load(data_root: Path, **changed: object) -> ClassPool:
    pool = settings(**changed).load(data_root, CPU)
    assert isinstance(pool, ClassPool)
    return pool


def classes(pool: ClassPool) -> dict[Split, list[str]]:
    return {split: pool.pools[split].names for split in Split}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))


def test_every_image_comes_to_its_class(tmp_path: Path) -> None:
    root = own_images(tmp_path / "images")
    pool = load(tmp_path)
    assert sorted(name for names in classes(pool).values() for name in names) == sorted(COUNTS)
    for held in pool.pools.values():
        for name, first, count in zip(held.names, held.first.tolist(), held.counts.tolist(), strict=True):
            assert count == COUNTS[name]
            for i, path in enumerate(find(root, 1, False)[name]):
                with Image.open(path) as image:
                    expected = np.asarray(centre_square(image, SIZE)).transpose(2, 0, 1)
                assert np.array_equal(held.images[first + i].numpy(), expected)
    assert pool.input_shape == (3, SIZE, SIZE)
    assert pool.stamp["split"] == "own 5/2/3, split_seed 0" and pool.stamp["images"] == "52, 4 to 9 a class"
    assert pool.stamp["resize"] == f"centre square, lanczos {SIZE}x{SIZE}"
    assert re.fullmatch("[0-9a-f]{16}", pool.stamp["pool_sha256"])


def test_grey_is_one_channel(tmp_path: Path) -> None:
    own_images(tmp_path / "images")
    grey, colour = load(tmp_path, grey=True), load(tmp_path)
    assert grey.input_shape == (1, SIZE, SIZE) and grey.stamp["resize"].endswith(", grey")
    assert classes(grey) == classes(colour)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    luma = (colour.pools[Split.train].images * weights).sum(1, keepdim=True)
    assert (grey.pools[Split.train].images - luma).abs().max() <= 1
    episode = grey.sample(Split.train, 0, range(4), 3, 1, 2)
    assert episode.query_x.shape == (4, 6, 1, SIZE, SIZE) and 0 <= episode.query_x.min() < episode.query_x.max() <= 1


def shown(image: Image.Image, size: int = 2) -> list:
    """Pixels of the prepared square, its top left one first."""
    return np.asarray(centre_square(image, size)).reshape(-1, 3).tolist()


def test_what_is_made_of_an_image() -> None:
    wide = Image.new("RGB", (30, 10), "red")
    wide.paste("blue", (10, 0, 20, 10))
    assert shown(wide) == [[0, 0, 255]] * 4  # the centre square alone
    assert shown(Image.new("RGBA", (5, 5), (0, 0, 0, 0))) == [[255] * 3] * 4  # nothing to see: white
    assert shown(Image.new("RGBA", (5, 5), (200, 0, 0, 255))) == [[200, 0, 0]] * 4
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert shown(palette) == [[10, 20, 30]] * 4
    palette.info["transparency"] = 1
    assert shown(palette) == [[255] * 3] * 4
    deep = Image.fromarray(np.full((4, 4), 0x7F80, np.uint16))
    assert shown(deep) == [[0x7F] * 3] * 4
    upside_down = Image.new("RGB", (2, 2))
    upside_down.putpixel((0, 0), (255, 0, 0))
    upside_down.getexif()[0x0112] = 3  # turned by half
    assert shown(upside_down)[-1] == [255, 0, 0] and shown(upside_down)[0] == [0, 0, 0]


def test_the_split_is_of_names_and_seed_alone(tmp_path: Path) -> None:
    own_images(tmp_path / "images")
    own_images(tmp_path / "other" / "images", {name: 3 for name in reversed(COUNTS)})
    here = classes(load(tmp_path))
    assert here == classes(load(tmp_path, size=8, grey=True)) == classes(load(tmp_path / "other"))
    assert here != classes(load(tmp_path, split_seed=1))
    assert here[Split.train] == ["ibis", "hen", "ant", "jay", "gnu"]  # for ever: protocols name the seed alone
    assert [len(names) for names in classes(load(tmp_path, shares=[0.8, 0, 0.2])).values()] == [8, 0, 2]


def test_one_more_class_moves_few(tmp_path: Path) -> None:
    counts = {f"class {i}": 1 for i in range(60)}
    own_images(tmp_path / "images", counts)
    before = classes(load(tmp_path))
    own_images(tmp_path / "images", {"class 60": 1})
    after = classes(load(tmp_path))
    assert all(len(set(before[split]) - set(after[split])) <= 2 for split in Split)


def test_unreadable_images_are_left_out_and_named_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = own_images(tmp_path / "images")
    clean = load(tmp_path)
    files = broken(root)
    (root / "kiwi").mkdir()
    (root / "kiwi" / "notes.txt").write_text("")
    (root / "lynx").mkdir()
    (root / "lynx" / "1.png").write_bytes(b"")
    why = ("[^()]*", "no image that Pillow knows", "no image that Pillow knows")
    named = ", ".join(rf"{re.escape(file)} \({reason}\)" for file, reason in zip(files, why, strict=True))
    said = f"left out 4 unreadable image files: {named} and 1 more; "
    said += "2 classes without a readable image: kiwi, lynx$"
    with pytest.warns(UserWarning, match=said) as caught:
        pool = load(tmp_path)
    assert len(caught) == 1
    assert pool.stamp == clean.stamp
    assert all(torch.equal(pool.pools[split].images, clean.pools[split].images) for split in Split)
    monkeypatch.setattr(image_folder, "prepared", lambda *_: pytest.fail("prepared again"))
    with pytest.warns(UserWarning, match=said):
        assert load(tmp_path).stamp == pool.stamp
    with pytest.raises(UserError, match=r"dataset.strict=True: .*bee/cut.jpg.*strict=false"):
        load(tmp_path, strict=True)


def test_the_cache_knows_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = own_images(tmp_path / "images")
    load(tmp_path, strict=True)
    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "prepared", lambda *_: pytest.fail("prepared again"))
        load(tmp_path)
    made = Mock(wraps=image_folder.prepared)
    monkeypatch.setattr(image_folder, "prepared", made)
    path = root / "ant" / "1.png"
    before = path.stat().st_mtime_ns
    changes: list[Callable[[], object]] = [
        lambda: os.utime(path, ns=(before, before + 1)),
        lambda: path.rename(root / "bee" / "another.png"),
        lambda: (root / "bee" / "0.jpg").unlink(),
        lambda: (root / "ant").rename(root / "zebra"),
    ]
    for done, change in enumerate(changes, start=1):
        change()
        load(tmp_path)
        assert made.call_count == done


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    def refusal(**changed: object) -> str:
        with pytest.raises(UserError) as caught:
            load(tmp_path, **changed)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"no folder {tmp_path / 'images'}" in refusal() and "dataset.path" in refusal()
    assert "no folder /nowhere/at/all" in refusal(path="/nowhere/at/all")
    root = tmp_path / "images"
    (root / "train" / "ant").mkdir(parents=True)
    Image.new("L", (3, 3)).save(root / "train" / "ant" / "1.png")
    Image.new("L", (3, 3)).save(root / "1.png")
    assert "no class in" in refusal() and ".jpeg" in refusal() and "1 folders without" in refusal()
    (root / "train" / "1.png").write_bytes(b"")
    assert refusal().endswith("unreadable, every image: train/1.png (no image that Pillow knows)")


def test_values_are_checked() -> None:
    with pytest.raises(ConfigError, match="size=0"):
        settings(size=0)
    for shares in ([0.5, 0.5], [0.5, 0.4, 0.2], [1.5, -0.5, 0.0], []):
        with pytest.raises(ConfigError, match=r"shares=.*sum is 1"):
            settings(shares=shares)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def refusal(data_root: Path, **changed: object) -> str:
    with pytest.raises(UserError) as caught:
        load(data_root, **changed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_small_classes_are_left_out_named_and_counted(tmp_path: Path) -> None:
    own_images(tmp_path / "images")
    with pytest.warns(
        UserWarning, match="left out 5 classes of fewer than dataset.min_images=5: ant, dog, fox and 2 more"
    ):
        pool = load(tmp_path, min_images=5)
    assert sorted(name for names in classes(pool).values() for name in names) == ["bee", "cat", "eel", "gnu", "jay"]
    assert pool.stamp["images"] == "32, 5 to 9 a class, 5 classes of fewer than 5 left out"
    pool.check(Split.train, 2, 1, 4)
    with pytest.raises(UserError, match=r"has only 4; lower shot or query, or leave out .* dataset.min_images=6"):
        load(tmp_path).check(Split.train, 2, 1, 5)
    with pytest.raises(UserError, match=r"10 classes are split 5/2/3 by dataset.shares=\[0.5,0.2,0.3\]: lower way"):
        load(tmp_path).check(Split.test, 5, 1, 1)
    assert "no class with so many images" in refusal(tmp_path, min_images=100)


def test_folders_for_train_val_and_test(tmp_path: Path) -> None:
    for part, names in {"train": "abc", "Validation": "de", "test": "fg"}.items():
        for i, name in enumerate(names):
            for j in range(3):
                picture(tmp_path / "images" / part / name / f"{j}.png", 100 * ord(part[0]) + 10 * i + j)
    pool = load(tmp_path, split=Division.folders)
    assert classes(pool) == {Split.train: ["a", "b", "c"], Split.val: ["d", "e"], Split.test: ["f", "g"]}
    assert pool.stamp["split"] == "own 3/2/2, by folders"
    assert pool.class_names(Split.test) == ["f", "g"]
    said = refusal(tmp_path)
    assert "images lie in its train, Validation, test: dataset.split=folders," in said and "images_in_folders" in said
    assert "5 classes are in train or val alone" in refusal(tmp_path, split=Division.images_in_folders)
    picture(tmp_path / "images" / "test" / "a" / "0.png", 1)
    assert "1 classes are in train and in test (a)" in refusal(tmp_path, split=Division.folders)


def test_two_layers_of_folders(tmp_path: Path) -> None:
    for i, name in enumerate(("x/a", "x/b", "y/a")):
        picture(tmp_path / "images" / name / "0.png", i)
    assert sorted(name for names in classes(load(tmp_path, layers=2)).values() for name in names) == [
        "x/a",
        "x/b",
        "y/a",
    ]
    assert "folders of layer 2: dataset.layers=2" in refusal(tmp_path)


@pytest.mark.parametrize("in_folders", [False, True])
def test_other_images_of_the_same_classes(tmp_path: Path, in_folders: bool) -> None:
    places = ("train", "train", "train", "val", "test", "test") if in_folders else ("",) * 6
    for i, name in enumerate("ab"):
        for j, place in enumerate(places):
            picture(tmp_path / "images" / place / name / f"{j}.png", 10 * i + j)
    division = Division.images_in_folders if in_folders else Division.images
    pool = load(tmp_path, split=division, shares=[0.5, 1 / 6, 1 / 3])
    assert classes(pool) == {split: ["a", "b"] for split in Split} and pool.class_names(Split.test) is None
    by = "by folders" if in_folders else "split_seed 0"
    assert pool.stamp["split"] == f"own images 6/2/4 of the same 2 classes, {by}, labels are the classes"
    pictures = [{image.numpy().tobytes() for image in pool.pools[split].images} for split in Split]
    assert len(set.union(*pictures)) == 12 == sum(map(len, pictures))  # no image is in two splits
    assert pool.drawn(Split.test, 0, range(3), 2) == [["a", "b"]] * 3
    pool.check(Split.test, 2, 1, 1)
    with pytest.raises(UserError, match="way=3: must be 2, all classes of the split"):
        pool.check(Split.test, 3, 1, 1)
    if not in_folders:
        other = load(tmp_path, split=division, shares=[0.5, 1 / 6, 1 / 3], split_seed=1)
        assert other.stamp["pool_sha256"] != pool.stamp["pool_sha256"]
        assert load(tmp_path, split=division, shares=[0, 0, 1]).stamp["split"].startswith("own images 0/0/12 of")


def test_pictures_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 7).save(tmp_path / "images" / name)
    assert "its 3 images are all alike" in refusal(tmp_path)


@pytest.mark.full
def test_the_command_trains_on_ones_own_images(metarun: Command, tmp_path: Path) -> None:
    broken(own_images(tmp_path / "mine"))
    words = ["train", "dataset=image_folder", f"dataset.path={tmp_path / 'mine'}", *QUICK, "run_dir=run"]
    done = metarun(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: dataset=image_folder") == 1 and "bee/cut.jpg" in done.stderr
    report = (tmp_path / "run" / "report.md").read_text()
    assert "own 5/2/3, split_seed 0" in report and "52, 4 to 9 a class" in report


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:dataset=image_folder")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset.path=nothing"], "no folder"),
        (["way=6"], "way=6: the train split has only 5 classes"),
        (["query=4"], "has only 4; lower shot or query"),
        (["dataset.strict=true"], "bee/empty.png (no image that Pillow knows), bee/text.gif"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    words: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken(own_images(tmp_path / "images"))
    given = ["dataset=image_folder", f"data_root={tmp_path}", f"run_dir={tmp_path / 'run'}", *QUICK, *words]
    assert cli.main(["train", *given]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_new_folder_is_tested_without_training_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own_images(tmp_path / "images")
    given = ["dataset=image_folder", "data_root=.", "run_dir=run", *QUICK]
    assert cli.main(["train", *given]) == 0
    own_images(tmp_path / "new", {"owl": 3, "pig": 4, "rat": 3})
    words = ["eval", "run=run", "dataset.path=new", "dataset.shares=[0,0,1]"]
    assert cli.main(words) == 0
    (result,) = (tmp_path / "run" / "eval").glob("*/result.json")
    assert "own 0/0/3" in result.read_text()
    assert cli.main([*words, "eval.query=9"]) == 2


def test_validation_classes_count_where_something_is_validated(tmp_path: Path) -> None:
    own_images(tmp_path / "images", {**dict.fromkeys(COUNTS, 9), "dog": 1, "eel": 1})
    val = classes(load(tmp_path))[Split.val]
    assert set(val) == {"fox", "eel"}
    given = ["dataset=image_folder", f"data_root={tmp_path}", *QUICK, "dataset.min_images=2"]
    with pytest.warns(UserWarning, match="left out"):
        build(config.compose([*given, "eval.every=0", "dataset.shares=[0.6,0.1,0.3]"])[0])  # one class for validation
        with pytest.raises(UserError, match="way=2: the val split has only 1 classes"):
            build(config.compose([*given, "dataset.shares=[0.6,0.1,0.3]"])[0])


def test_older_run_folders_know_none_of_the_younger_settings(tmp_path: Path) -> None:
    _, record = config.compose(["dataset=image_folder"])
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in record.values.items()}
    for key in ("split", "layers", "min_images", "white"):
        del values["dataset"][key]
    write_json(tmp_path / "config.json", vars(replace(record, values=values)))
    before = Record.read(tmp_path)
    assert before is not None and before.hash() == record.hash() == replace(record, values=values).hash()
    assert config.reopen(before, [])[0] == config.compose(["dataset=image_folder"])[0]
    assert config.compose(["dataset=image_folder", "dataset.split=images"])[1].hash() != record.hash()
