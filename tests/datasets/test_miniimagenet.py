from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.datasets import miniimagenet
from metarun.datasets.base import Split
from metarun.datasets.miniimagenet import Filter, MiniImageNet, find, published_split
from metarun.datasets.sampler import ClassPool
from metarun.errors import ConfigError, UserError
from tests.support.mini_imagenet import CHOSEN, LAYOUTS, SIZE, Pixels, random_pixels, small_copy

CPU = torch.device("cpu")
INCOMPLETE = "not the complete mini-ImageNet"
PICKLES = {"class_dict": "mini-imagenet-cache-{}.pkl", "labels": "miniImageNet_category_split_{}.pickle"}


def small_pickles(root: Path, kind: str, pixels: Pixels | None = None) -> Path:
    """Writes pixels into root as pickles, images of a class apart from each other; returns root."""
    pixels = pixels or random_pixels()
    root.mkdir(parents=True, exist_ok=True)
    label = 0
    for split, of_split in pixels.items():
        classes, images = of_split.shape[:2]
        data = of_split.swapaxes(0, 1).reshape(-1, *of_split.shape[2:])  # image i of class c at i * classes + c
        if kind == "class_dict":
            indices = {published_split()[split][c]: [*range(c, len(data), classes)] for c in reversed(range(classes))}
            content = {"image_data": data, "class_dict": indices}
        else:
            content = {"data": data, "labels": [label + c for c in range(classes)] * images}
        label += classes
        name = "train_phase_train" if (kind, split) == ("labels", Split.train) else split.name
        (root / PICKLES[kind].format(name)).write_bytes(pickle.dumps(content))
    return root


def load(data_root: Path, size: int = SIZE, resize: Filter = Filter.lanczos) -> ClassPool:
    with pytest.warns(UserWarning, match=INCOMPLETE):
        pool = MiniImageNet(size=size, resize=resize).load(data_root, CPU)
    assert isinstance(pool, ClassPool)
    return pool


def pixels_of(pool: ClassPool) -> Pixels:
    """[classes, images of each, H, W, 3] of each split."""
    of_class = {split: p.images.unflatten(0, (len(p.counts), -1)) for split, p in pool.pools.items()}
    return {split: images.permute(0, 1, 3, 4, 2).numpy() for split, images in of_class.items()}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))


def test_the_published_split() -> None:
    names = published_split()
    assert [len(names[split]) for split in Split] == [64, 16, 20]
    everything = [name for split in Split for name in names[split]]
    assert len(set(everything)) == 100 and all(re.fullmatch(r"n\d{8}", name) for name in everything)


@pytest.mark.parametrize(("layout", "folder"), zip(LAYOUTS, 2 * miniimagenet.FOLDERS, strict=True))
def test_images_come_to_their_class_and_split(layout: str, folder: str, tmp_path: Path) -> None:
    root = small_copy(tmp_path / folder, layout)
    pool = load(tmp_path)
    for split, ids in CHOSEN.items():
        for c, name in enumerate(ids):
            for i in range(4):
                with Image.open(root / LAYOUTS[layout].format(split=split.name, id=name, i=i)) as image:
                    expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
                assert np.array_equal(pixels_of(pool)[split][c, i], expected)
    assert pool.input_shape == (3, SIZE, SIZE)
    assert pool.stamp["split"] == "ravi 3/2/2, 4 images a class"
    assert pool.stamp["resize"] == f"lanczos {SIZE}x{SIZE}" and pool.stamp["rotations"] == "none"
    assert re.fullmatch("[0-9a-f]{16}", pool.stamp["pool_sha256"])


@pytest.mark.parametrize("kind", PICKLES)
def test_pickled_images_come_to_their_class_and_split(kind: str, tmp_path: Path) -> None:
    pixels = random_pixels()
    small_pickles(tmp_path / "miniimagenet", kind, pixels)
    pool = load(tmp_path)
    for split, expected in pixels.items():
        assert np.array_equal(pixels_of(pool)[split], expected)
    assert pool.stamp["split"] == "ravi 3/2/2, 4 images a class"
    assert pool.stamp["resize"] == f"none, stored at {SIZE}x{SIZE}"
    assert pool.stamp["source"] == PICKLES[kind].format("*")
    smaller = pixels_of(load(tmp_path, size=8))[Split.val][1, 2]
    resized = Image.fromarray(pixels[Split.val][1, 2]).resize((8, 8), Image.Resampling.LANCZOS)
    assert np.array_equal(smaller, np.asarray(resized))


def test_one_checksum_for_the_same_pixels(tmp_path: Path) -> None:
    small_pickles(tmp_path / "a" / "miniimagenet", "class_dict")
    small_pickles(tmp_path / "b" / "miniimagenet", "labels")
    small_pickles(tmp_path / "c" / "miniimagenet", "labels", random_pixels(seed=1))
    a, b, c = (load(tmp_path / name).stamp["pool_sha256"] for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("resize", Filter)
def test_filters(resize: Filter, tmp_path: Path) -> None:
    root = small_copy(tmp_path / "miniimagenet", "folders by split")
    name = CHOSEN[Split.test][1]
    with Image.open(root / "test" / name / f"{name}_3.JPEG") as image:
        expected = image.resize((SIZE, SIZE), getattr(Image.Resampling, resize.name.upper()))
    pool = load(tmp_path, resize=resize)
    assert np.array_equal(pixels_of(pool)[Split.test][1, 3], np.asarray(expected))
    assert pool.stamp["resize"] == f"{resize.name} {SIZE}x{SIZE}"


def test_other_modes_become_colour(tmp_path: Path) -> None:
    root = small_copy(tmp_path / "miniimagenet", "class folders", random_pixels())
    name = CHOSEN[Split.train][0]
    Image.new("L", (SIZE, SIZE), 90).save(root / name / f"{name}_0.JPEG")
    Image.new("CMYK", (SIZE, SIZE), (0, 255, 0, 0)).save(root / name / f"{name}_1.JPEG")
    (root / name / "._hidden.jpg").write_bytes(b"what macOS leaves")
    grey, magenta = pixels_of(load(tmp_path))[Split.train][0, :2]
    assert (grey == 90).all() and (abs(magenta.astype(int) - (255, 0, 255)) < 4).all()


def test_an_episode(tmp_path: Path) -> None:
    small_copy(tmp_path / "miniimagenet", "folders by split")
    pool = load(tmp_path)
    episode = pool.sample(Split.train, 0, range(6), 3, 1, 2)
    assert episode.support_x.shape == (6, 3, 3, SIZE, SIZE) and episode.query_x.shape == (6, 6, 3, SIZE, SIZE)
    assert 0 <= episode.query_x.min() < episode.query_x.max() <= 1
    with pytest.raises(UserError, match="only 4"):
        pool.check(Split.val, 2, 1, 4)


def test_the_cache_comes_first_and_knows_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Callable[[Path, int], Path]] = [
        lambda root, seed: small_copy(root, "flat, CSVs", random_pixels(seed)),
        lambda root, seed: small_pickles(root, "class_dict", random_pixels(seed)),
        lambda root, seed: small_pickles(root, "labels", random_pixels(seed)),
    ]
    for k, copy in enumerate(copies):
        roots = [tmp_path / f"{k}{name}" for name in "ab"]
        for seed, root in enumerate(roots):
            copy(root / "miniimagenet", seed)
        one, other = (load(root) for root in roots)
        assert one.stamp["pool_sha256"] != other.stamp["pool_sha256"]
        with monkeypatch.context() as patch:
            patch.setattr(miniimagenet, "prepared", lambda *_: pytest.fail("prepared again"))
            for root, pool in zip(roots, (one, other), strict=True):
                again = load(root)
                assert again.stamp == pool.stamp
                assert all(torch.equal(again.pools[split].images, pool.pools[split].images) for split in Split)


@pytest.mark.full
def test_the_complete_data_pass_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict(zip(Split, (64, 16, 20), strict=True))
    pixels = {split: np.full((count, 600, 2, 2, 3), split.value, np.uint8) for split, count in counts.items()}
    root = small_pickles(tmp_path / "miniimagenet", "class_dict", pixels)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in root.iterdir()}
    monkeypatch.setattr(miniimagenet, "PUBLISHED_MD5", sums)
    pool = MiniImageNet(size=2, resize=Filter.lanczos).load(tmp_path, CPU)
    assert pool.stamp["split"] == "ravi 64/16/20"
    assert pool.stamp["source"] == "mini-imagenet-cache-*.pkl, published MD5"


def test_another_choice_of_classes_is_no_published_split(tmp_path: Path) -> None:
    root = small_copy(tmp_path / "miniimagenet", "folders by split")
    name = CHOSEN[Split.val][0]
    shutil.move(root / "val" / name, root / "train" / name)
    assert load(tmp_path).stamp["split"] == "own 4/1/2, 4 images a class"


def test_what_scripts_leave_behind_is_no_layout(tmp_path: Path) -> None:
    root = small_copy(tmp_path / "miniimagenet", "flat, CSVs")
    for split, ids in CHOSEN.items():  # what MAML's script does: moves the images, keeps the CSVs
        for name in ids:
            (root / split.name / name).mkdir(parents=True)
            for path in (root / "images").glob(f"{name}*"):
                path.rename(root / split.name / name / path.name)
    assert load(tmp_path).stamp["source"] == "folders by split"


def test_nothing_found_says_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "miniImagenet" / "images").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        find(tmp_path)
    for word in (
        *miniimagenet.FOLDERS,
        "train.csv",
        "mini-imagenet-cache",
        "category_split",
        "image-net.org",
        "glyphs",
    ):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def refusal(data_root: Path) -> str:
    with pytest.raises(UserError) as caught:
        MiniImageNet(size=SIZE, resize=Filter.lanczos).load(data_root, CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_that_call_are_refused(kind: str, tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = small_pickles(tmp_path / "miniimagenet", kind) / PICKLES[kind].format("val")
    path.write_bytes(pickle.dumps({"image_data": Call(), "class_dict": {}}))
    said = refusal(tmp_path)
    assert said.startswith(f"{path}: unreadable (") and f"{os.mkdir.__module__}.mkdir" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", PICKLES)
def test_damaged_pickles_are_named(kind: str, tmp_path: Path) -> None:
    path = small_pickles(tmp_path / "miniimagenet", kind) / PICKLES[kind].format("test")
    whole = path.read_bytes()
    floats = {"image_data": np.zeros((2, 4, 4, 3)), "class_dict": {"a": [0]}}
    outside = {"data": np.zeros((2, 4, 4, 3), np.uint8), "labels": [0, 0, 1]}
    for damaged in (b"", whole[:-100], b"no pickle", *map(pickle.dumps, ([], {"data": 1}, floats, outside))):
        path.write_bytes(damaged)
        assert refusal(tmp_path).startswith(f"{path}: unreadable (")
    path.unlink()
    assert path.name in refusal(tmp_path)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    root = small_copy(tmp_path / "miniimagenet", "flat, CSVs")
    path = next((root / "images").iterdir())
    for damaged in (path.read_bytes()[:-200], b"no image"):
        path.write_bytes(damaged)
        assert refusal(tmp_path).startswith(f"{path}: unreadable image")


def test_classes_need_equally_many_images_and_one_split(tmp_path: Path) -> None:
    root = small_copy(tmp_path / "miniimagenet", "folders by split")
    name = CHOSEN[Split.val][1]
    (root / "val" / name / f"{name}_2.JPEG").unlink()
    assert f"class {name} has 3 images where others have 4" in refusal(tmp_path)
    shutil.rmtree(root / "val" / name)
    shutil.copytree(root / "train" / CHOSEN[Split.train][0], root / "val" / CHOSEN[Split.train][0])
    assert f"class {CHOSEN[Split.train][0]} is in 2 splits" in refusal(tmp_path)
    for path in root.glob("*/*/*"):
        path.unlink()
    shutil.rmtree(root / "val" / CHOSEN[Split.train][0])
    assert "hold no images" in refusal(tmp_path)
    shutil.rmtree(root / "val")
    assert "val missing" in refusal(tmp_path)


def test_csvs_that_do_not_fit(tmp_path: Path) -> None:
    root = small_copy(tmp_path / "miniimagenet", "flat, CSVs")
    name = CHOSEN[Split.test][0]
    (root / "images" / f"{name}00000001.jpg").unlink()
    said = refusal(tmp_path)
    assert str(root / "test.csv") in said and f"{name}00000001.jpg" in said
    (root / "val.csv").write_text("class_name,image_name\n")
    assert f"{root / 'val.csv'}: the first line must be filename,label" in refusal(tmp_path)
    (root / "val.csv").unlink()
    assert "val.csv missing" in refusal(tmp_path)
    other = small_copy(tmp_path / "other" / "miniimagenet", "class folders")
    for split in Split:
        (other / f"{split.name}.csv").write_text("filename,label\nx.jpg,n01532829\nincomplete\n")
    assert "the CSVs name no image" in refusal(tmp_path / "other")


def test_size_is_checked() -> None:
    with pytest.raises(ConfigError, match="size=0"):
        MiniImageNet(size=0, resize=Filter.lanczos)
    assert MiniImageNet(size=84, resize=Filter.bicubic).input_shape == (3, 84, 84)
