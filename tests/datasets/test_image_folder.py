from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from metarun import cli
from metarun.datasets import image_folder
from metarun.datasets.base import Split
from metarun.datasets.image_folder import ImageFolder, centre_square
from metarun.datasets.sampler import ClassPool
from metarun.errors import ConfigError, UserError
from tests.conftest import Command

CPU = torch.device("cpu")
SIZE = 16
COUNTS = {"ant": 4, "bee": 7, "cat": 5, "dog": 4, "eel": 6, "fox": 4, "gnu": 5, "hen": 4, "ibis": 4, "jay": 9}
MODES = ("RGB", "L", "P", "RGBA", "1", "CMYK", "I;16", "LA")
SUFFIXES = {"RGB": "jpg", "CMYK": "JPEG", "1": "bmp"}


def own_images(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    """Images of many sizes and modes, and what else lies about in folders; returns root."""
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            sides = generator.integers(SIZE // 2, 3 * SIZE, 2)
            image = Image.fromarray(generator.integers(0, 256, (*sides, 3), np.uint8))
            mode = MODES[i % len(MODES)]
            if mode == "I;16":
                image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
            else:
                image = image.convert(mode)
            image.save(root / name / f"{i}.{SUFFIXES.get(mode, 'png')}")
        (root / name / "notes.txt").write_text("no image")
        (root / name / ".DS_Store").write_bytes(b"\0")
        (root / name / "._0.png").write_bytes(b"what macOS leaves")
    (root / ".thumbnails").mkdir(exist_ok=True)
    (root / ".thumbnails" / "0.png").write_bytes(b"hidden")
    (root / "readme.md").write_text("no class")
    return root


def broken(root: Path) -> list[str]:
    """Three files of the class bee that cannot be read, each in its way."""
    whole = (root / "bee" / "0.jpg").read_bytes()
    contents = {"cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "text.gif": b"no image at all"}
    for name, content in contents.items():
        (root / "bee" / name).write_bytes(content)
    return [f"bee/{name}" for name in contents]


def settings(**changed: object) -> ImageFolder:
    values: dict = {"path": "images", "size": SIZE, "grey": False, "shares": [0.5, 0.2, 0.3], "split_seed": 0}
    return ImageFolder(**{**values, "strict": False, **changed})


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
            for i, path in enumerate(image_folder.find(root)[name]):
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
    assert shown(deep.convert("I")) == [[0x7F] * 3] * 4  # as which Pillow may open 16-bit PNGs
    upside_down = Image.new("RGB", (2, 2))
    upside_down.putpixel((0, 0), (255, 0, 0))
    upside_down.getexif()[0x0112] = 3  # turned by half
    assert shown(upside_down)[-1] == [255, 0, 0] and shown(upside_down)[0] == [0, 0, 0]
    for pixels in (np.full((2, 2), 0.5, np.float32), np.full((2, 2), 2**16, np.int32)):
        with pytest.raises(ValueError, match="8 or 16 bits"):
            centre_square(Image.fromarray(pixels), 2)


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
    said = re.escape(f"left out 4 unreadable image files: {', '.join(files)} and 1 more; ")
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
    assert refusal().endswith("unreadable, every image: train/1.png")


def test_values_are_checked() -> None:
    with pytest.raises(ConfigError, match="size=0"):
        settings(size=0)
    for shares in ([0.5, 0.5], [0.5, 0.4, 0.2], [1.5, -0.5, 0.0], []):
        with pytest.raises(ConfigError, match=r"shares=.*sum is 1"):
            settings(shares=shares)


QUICK = ["way=2", "shot=1", "query=2", "steps=2", "meta_batch=2", "eval.every=2", "eval.val_tasks=2", "eval.tasks=2"]
QUICK += ["model.filters=4", "dataset.size=16", "dataset.shares=[0.5,0.2,0.3]", "device.compile=false"]


def test_the_command_trains_on_ones_own_images(metarun: Command, tmp_path: Path) -> None:
    broken(own_images(tmp_path / "mine"))
    words = ["train", "dataset=image_folder", f"dataset.path={tmp_path / 'mine'}", *QUICK, "run_dir=run"]
    done = metarun(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: dataset=image_folder") == 1 and "bee/cut.jpg" in done.stderr
    report = (tmp_path / "run" / "report.md").read_text()
    assert "own 5/2/3, split_seed 0" in report and "52, 4 to 9 a class" in report


@pytest.mark.filterwarnings("ignore:dataset=image_folder")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset.path=nothing"], "no folder"),
        (["way=6"], "way=6: the train split has only 5 classes"),
        (["query=4"], "has only 4; lower shot or query"),
        (["dataset.strict=true"], "bee/cut.jpg, bee/empty.png, bee/text.gif"),
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
