"""Images by class with a list of the classes of each split: any such data, CUB and tiered-ImageNet."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.datasets import tieredimagenet
from metarun.datasets.base import Split
from metarun.datasets.class_list import ClassList
from metarun.datasets.cub import Cub
from metarun.datasets.imagefile import Filter
from metarun.datasets.listed import ListedImages
from metarun.datasets.sampler import ClassPool
from metarun.datasets.split_file import published
from metarun.datasets.tieredimagenet import TieredImageNet
from metarun.errors import UserError
from tests.support.listed_images import first_classes, photograph, write_folders, write_list, write_pickles

CPU = torch.device("cpu")
MINE = {Split.train: ["ant", "bee"], Split.val: ["cat"], Split.test: ["dog", "elk"]}
PLAIN: dict[str, Any] = {"size": 16, "resize": Filter.lanczos, "grey": False}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))


def load(dataset: ListedImages, data_root: Path) -> ClassPool:
    pool = dataset.load(data_root, CPU)
    assert isinstance(pool, ClassPool)
    return pool


def mine(**fields) -> ClassList:
    return ClassList(**{"path": "mine", "split": "mine.json", **PLAIN, **fields})


def refusal(dataset: ListedImages, data_root: Path) -> str:
    with pytest.raises(UserError) as caught:
        dataset.load(data_root, CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def expected(seed: int, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    """The centre square of an image of 20x24 pixels, resized to 16x16, [3, 16, 16]."""
    left = (size[1] - size[0]) // 2
    square = Image.fromarray(photograph(seed, size)).crop((left, 0, left + size[0], size[0]))
    return np.asarray(square.resize((16, 16), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


@pytest.mark.parametrize("by_split", [False, True])
def test_a_folder_for_each_class(by_split: bool, tmp_path: Path) -> None:
    write_folders(tmp_path / "mine", MINE, by_split=by_split)
    write_list(tmp_path / "mine.json", MINE)
    pool = load(mine(), tmp_path)
    c = 0
    for split, names in MINE.items():
        assert pool.pools[split].names == names
        images = pool.pools[split].images.unflatten(0, (len(names), 4)).numpy()
        for k in range(len(names)):
            assert all(np.array_equal(images[k, i], expected(100 * c + i)) for i in range(4))
            c += 1
    assert pool.stamp["split"] == "own 2/1/2, mine.json" and pool.stamp["source"] == "class folders"
    assert pool.stamp["resize"] == "centre square, lanczos 16x16" and "images" not in pool.stamp


def test_arrays_in_one_file(tmp_path: Path) -> None:
    write_list(tmp_path / "mine.json", MINE)
    names = ["elk", "dog", "cat", "bee", "ant", "not listed"]
    for channels in ((), (3,)):
        images = photograph(5, (6, 4), 16 * 16 * (3 if channels else 1)).reshape(6, 4, 16, 16, *channels)
        np.savez(tmp_path / "mine", images=images, names=names)
        pool = load(mine(path="mine.npz", grey=not channels), tmp_path)
        read = pool.pools[Split.train].images.unflatten(0, (2, 4)).permute(0, 1, 3, 4, 2).numpy()
        assert np.array_equal(read.reshape(2, *images.shape[1:]), images[[4, 3]])
        assert pool.stamp["resize"] == f"none, stored at 16x16{'' if channels else ', grey'}"
    np.savez(tmp_path / "mine", images=images, names=names[:-1])
    assert "names are 5 different ones for 6 classes" in refusal(mine(path="mine.npz"), tmp_path)
    np.savez(tmp_path / "mine", images=images / 255, names=names)
    assert "images are float64 [6, 4, 16, 16, 3]" in refusal(mine(path="mine.npz"), tmp_path)
    (tmp_path / "mine.npz").write_bytes((tmp_path / "mine.npz").read_bytes()[:-90])
    assert "mine.npz: is not NPZ with images" in refusal(mine(path="mine.npz"), tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "mine.json: is not there" in refusal(mine(), tmp_path)
    write_list(tmp_path / "mine.json", MINE)
    assert "such as ant" in refusal(mine(), tmp_path)
    write_folders(tmp_path / "mine", MINE)
    shutil.rmtree(tmp_path / "mine" / "cat")
    assert "mine: has no folder cat, as of 1 of the 5 classes" in refusal(mine(), tmp_path)
    (tmp_path / "mine" / "cat").mkdir()
    assert "has no images of class cat" in refusal(mine(), tmp_path)
    (tmp_path / "mine" / "cat" / "1.png").write_bytes(b"no image")
    assert "cat/1.png: unreadable image" in refusal(mine(), tmp_path)
    assert not list((tmp_path / "cache").glob("*.n*")), "nothing half done is left"


def test_changed_files_are_read_again_and_the_same_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "mine", MINE)
    write_list(tmp_path / "mine.json", MINE)
    first = load(mine(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("metarun.datasets.listed.opened", lambda *_: pytest.fail("prepared again"))
        again = load(mine(), tmp_path)
    assert again.stamp == first.stamp
    assert all(torch.equal(again.pools[split].images, first.pools[split].images) for split in Split)
    Image.fromarray(photograph(999)).save(tmp_path / "mine" / "elk" / "0.png")
    assert load(mine(), tmp_path).stamp["pool_sha256"] != first.stamp["pool_sha256"]


def test_splits_that_stand_one_after_another_are_not_copied(tmp_path: Path) -> None:
    write_folders(tmp_path / "mine", MINE)
    write_list(tmp_path / "mine.json", MINE)
    pools = load(mine(), tmp_path).pools
    places = [pools[split].images.untyped_storage().data_ptr() for split in Split]
    assert len(set(places)) == 1 or places == sorted(places)
    whole = np.load(next((tmp_path / "cache").glob("*.npy")), mmap_mode="r")
    assert sum(len(pools[split].images) for split in Split) == len(whole)
    ends = pools[Split.train].images.data_ptr() + pools[Split.train].images.nbytes
    assert pools[Split.val].images.data_ptr() == ends, "both are views of the one mapped file"


CUB_FOLDERS: list[Callable[[Path], Path]] = [
    lambda root: root / "CUB_200_2011" / "images",
    lambda root: root / "cub" / "CUB_200_2011" / "images",
    lambda root: root / "cub",
]


@pytest.mark.parametrize("place", CUB_FOLDERS)
def test_cub(place: Callable[[Path], Path], tmp_path: Path) -> None:
    dataset = Cub(split="cub", **PLAIN)
    said = refusal(dataset, tmp_path)
    assert "CUB_200_2011.tgz" in said and str(tmp_path) in said
    write_folders(place(tmp_path), published("cub"), images=1)
    with pytest.warns(UserWarning, match=r"dataset=cub: has 200 images; the complete data have 11,788"):
        pool = load(dataset, tmp_path)
    assert pool.stamp["split"] == "cub 100/50/50" and pool.stamp["images"] == "200 of 11788, 1 to 1 a class"
    assert np.array_equal(pool.pools[Split.val].images[0].numpy(), expected(100 * 100))
    assert pool.class_names(Split.test) == published("cub")[Split.test]


@pytest.mark.filterwarnings("ignore:dataset=tieredimagenet. has")
@pytest.mark.parametrize("words", [False, True])
def test_tiered_imagenet_in_pickles(words: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = first_classes("tieredimagenet")
    monkeypatch.setattr("metarun.datasets.listed.listed_in", lambda *_: (listed, False))
    root = tmp_path / "tieredimagenet" / "tiered-imagenet"
    write_pickles(root, listed, words=words)
    pool = load(TieredImageNet(split="tieredimagenet", size=84, resize=Filter.lanczos, grey=False), tmp_path)
    assert pool.stamp["split"] == "tieredimagenet 3/2/2" and pool.stamp["source"] == "*_images_png.pkl"
    assert pool.stamp["resize"] == "none, stored at 84x84"
    names = [f"{name} in words" if words else name for name in listed[Split.test]]
    assert pool.class_names(Split.test) == names
    images = pool.pools[Split.test].images.unflatten(0, (2, 4)).permute(0, 1, 3, 4, 2).numpy()
    assert np.array_equal(images[1, 2], photograph(100 * 6 + 2, (84, 84)))
    smaller = load(TieredImageNet(split="tieredimagenet", **PLAIN), tmp_path)
    assert np.array_equal(smaller.pools[Split.test].images[6].numpy(), expected(602, (84, 84)))
    if words:
        monkeypatch.undo()
        monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
        write_list(tmp_path / "mine.json", MINE)
        said = refusal(TieredImageNet(split="mine.json", **PLAIN), tmp_path)
        assert "has no images of class ant" in said, "a user's list is never replaced by that of the files"
        other = load(TieredImageNet(split="tieredimagenet", **PLAIN), tmp_path)
        assert other.stamp["split"] == "own 3/2/2, as in the files"


@pytest.mark.filterwarnings("ignore:dataset=tieredimagenet. has")
def test_tiered_imagenet_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(TieredImageNet(split="tieredimagenet", **PLAIN), tmp_path)
    assert "image-net.org" in said and "tiered-imagenet.tar" in said
    listed = first_classes("tieredimagenet")
    monkeypatch.setattr("metarun.datasets.listed.listed_in", lambda *_: (listed, False))
    write_folders(tmp_path / "tiered-imagenet", listed, by_split=True)
    pool = load(TieredImageNet(split="tieredimagenet", **PLAIN), tmp_path)
    assert pool.stamp["source"] == "class folders" and pool.class_names(Split.val) == listed[Split.val]


def test_damaged_pickles_of_tiered_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = first_classes("tieredimagenet")
    monkeypatch.setattr("metarun.datasets.listed.listed_in", lambda *_: (listed, False))
    root = tmp_path / "tieredimagenet"
    dataset = TieredImageNet(split="tieredimagenet", **PLAIN)

    class Call:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    write_pickles(root, listed)
    (root / "val_images_png.pkl").write_bytes(pickle.dumps([Call()]))
    assert "it may be malicious" in refusal(dataset, tmp_path) and not (tmp_path / "ran").exists()
    (root / "val_images_png.pkl").write_bytes(pickle.dumps([]))
    assert "val_images_png.pkl: unreadable (ValueError: 0 images" in refusal(dataset, tmp_path)
    (root / "val_images_png.pkl").unlink()
    assert "val_images_png.pkl missing" in refusal(dataset, tmp_path)
    (root / "test_labels.pkl").write_bytes(
        pickle.dumps({"label_specific": np.array([0, 9]), "label_specific_str": ["a"]})
    )
    write_pickles(tmp_path / "other", listed)
    shutil.copy(tmp_path / "other" / "val_images_png.pkl", root)
    assert "test_labels.pkl: unreadable (ValueError: its labels" in refusal(dataset, tmp_path)
    write_pickles(root, listed)
    monkeypatch.setattr(tieredimagenet, "require_room", lambda *_: (_ for _ in ()).throw(UserError("no room")))
    assert "no room" in refusal(dataset, tmp_path)
