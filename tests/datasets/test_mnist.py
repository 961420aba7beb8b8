from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.datasets import mnist
from metarun.datasets.base import Split
from metarun.datasets.mnist import MNIST, NamedSplit
from metarun.datasets.sampler import ClassPool
from metarun.errors import UserError

CPU = torch.device("cpu")
TRAINING = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # images of each digit in the training file
TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def load(data_root: Path, split: NamedSplit, size: int = 28) -> ClassPool:
    pool = MNIST(split=split, size=size).load(data_root, CPU)
    assert isinstance(pool, ClassPool)
    return pool


def write_files(root: Path, train: np.ndarray, test: np.ndarray, digits: dict[str, list[int]]) -> Path:
    """The four files as torchvision reads them: a magic number, the sizes (big-endian), the bytes. Returns root."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, images in (("train", train), ("t10k", test)):
        sizes = b"".join(int(n).to_bytes(4, "big") for n in images.shape)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images.tobytes())
        labels = bytes(digits[name])
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + len(labels).to_bytes(4, "big") + labels)
    return root


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, np.ndarray, list[int]]:
    """An empty cache, and an MNIST of 60 + 30 images that holds back 20: folder, images and their digits."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    for name, value in {"TRAINING": 60, "TEST": 30, "HELD_OUT": 20}.items():
        monkeypatch.setattr(mnist, name, value)
    images = np.random.default_rng(0).integers(0, 256, (90, 28, 28), np.uint8)
    digits = [3 * i % 10 for i in range(90)]
    root = write_files(tmp_path / "data", images[:60], images[60:], {"train": digits[:60], "t10k": digits[60:]})
    return root, images, digits


def test_digits_gives_each_digit_the_images_of_both_files(tiny: Any) -> None:
    root, images, digits = tiny
    pool = load(root, NamedSplit.digits)
    assert not pool.has(Split.val)
    for split, first in ((Split.train, 0), (Split.test, 5)):
        of_split = pool.pools[split]
        assert of_split.names == [str(first + c) for c in range(5)]
        expected = [images[i, None] for c in range(5) for i in range(90) if digits[i] == first + c]
        assert np.array_equal(of_split.images.numpy(), np.stack(expected))
    with pytest.raises(UserError, match=r"way=6: the train split has only 5 classes"):
        pool.check(Split.train, 6, 1, 1)
    with pytest.raises(UserError, match=r"\(test\) are 10, but class 5 has only 9"):
        pool.check(Split.test, 5, 5, 5)


def test_images_keeps_the_digit_as_label_and_the_files_apart(tiny: Any) -> None:
    root, images, digits = tiny
    pool = load(root, NamedSplit.images)
    for split, part in ((Split.train, range(40)), (Split.val, range(40, 60)), (Split.test, range(60, 90))):
        where = {images[i].tobytes(): digits[i] for i in part}
        episode = pool.sample(split, 0, range(20), 10, 1, 1)
        for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
            pixels = (x * 255).round().to(torch.uint8).flatten(0, 1).numpy()
            assert [where[image.tobytes()] for image in pixels] == y.flatten().tolist()
    pool.check(Split.val, 10, 1, 1)
    for way in (5, 11):
        with pytest.raises(UserError, match=rf"way={way}: must be 10, all classes of the split") as caught:
            pool.check(Split.train, way, 1, 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"\(val\) are 3, but class 0 has only 2"):
        pool.check(Split.val, 10, 1, 2)


def test_other_sizes_are_antialiased(tiny: Any) -> None:
    root, images, digits = tiny
    pool = load(root, NamedSplit.digits, size=14)
    assert pool.input_shape == MNIST(split=NamedSplit.digits, size=14).input_shape == (1, 14, 14)
    expected = Image.fromarray(images[digits.index(5)]).resize((14, 14), Image.Resampling.LANCZOS)
    assert np.array_equal(pool.pools[Split.test].images[0, 0].numpy(), np.asarray(expected))
    assert pool.stamp["resize"] == "antialias 14x14"
    with pytest.raises(UserError, match="size=0: must be >= 1"):
        MNIST(split=NamedSplit.digits, size=0)


def test_the_prepared_cache_comes_first(tiny: Any) -> None:
    root, _, _ = tiny
    first = load(root, NamedSplit.images)
    again = load(root / "nowhere", NamedSplit.images)
    assert torch.equal(again.pools[Split.test].images, first.pools[Split.test].images)


def test_what_cannot_be_found_says_what_was_tried(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(root: Path) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a mirror, got:\nno network")

    root, images, digits = tiny
    monkeypatch.setattr(mnist, "_from_download", offline)
    with pytest.raises(UserError) as caught:
        load(root / "nowhere", NamedSplit.digits)
    for word in ("dataset=mnist", "cache", "MNIST/raw", "no network", "By hand", "data_root", "dataset=glyphs"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    short = write_files(root / "short", images[:50], images[60:], {"train": digits[:50], "t10k": digits[60:]})
    with pytest.raises(UserError, match=r"holds 50 labels and images \[50, 28, 28\] instead of 60"):
        load(short, NamedSplit.digits)


def test_real_digits(data_root: Path) -> None:
    tasks = load(data_root, NamedSplit.digits)
    both = (np.array(TRAINING) + TEST).tolist()
    assert tasks.pools[Split.train].counts.tolist() == both[:5] and tasks.pools[Split.test].counts.tolist() == both[5:]
    assert tasks.input_shape == (1, 28, 28)
    assert tasks.stamp == {
        "split": "digits 0-4/none/5-9",
        "resize": "none, stored at 28x28",
        "rotations": "none",
    }
    episode = tasks.sample(Split.train, 0, range(8), 5, 5, 15)
    assert 0.05 < episode.query_x.mean().item() < 0.2  # ink is 1, and there is little of it
    tasks.check(Split.test, 5, 313, 6000)
    with pytest.raises(UserError, match="class 5 has only 6313"):
        tasks.check(Split.test, 5, 314, 6000)


def test_real_images(data_root: Path) -> None:
    tasks = load(data_root, NamedSplit.images)
    train, val, test = (tasks.pools[split].counts for split in Split)
    assert (train + val).tolist() == TRAINING and test.tolist() == TEST and val.sum() == 5000
    raw = data_root / "MNIST" / "raw"
    label = np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8, offset=8)
    image = np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28)
    sevens = tasks.pools[Split.test].images[int(test[:7].sum()) : int(test[:8].sum())]
    assert np.array_equal(sevens[:, 0].numpy(), image[label == 7])
