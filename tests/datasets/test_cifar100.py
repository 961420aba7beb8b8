from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun import config
from metarun.datasets import cifar100
from metarun.datasets.base import Split
from metarun.datasets.cifar_fs import CifarFS
from metarun.datasets.fc100 import FC100
from metarun.datasets.imagefile import Filter
from metarun.datasets.sampler import ClassPool
from metarun.datasets.split_file import published
from metarun.errors import UserError
from tests.support.cifar100 import IMAGES, LAYOUTS, copy, in_place_of_the_real, pixels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar100, "_from_download", lambda _: pytest.fail("no test downloads"))


def dataset(part: type[cifar100.Cifar100] = CifarFS, **fields) -> cifar100.Cifar100:
    plain = {"split": part.__module__.rpartition(".")[2], "size": 32, "resize": Filter.lanczos, "grey": False}
    return part(**{**plain, **fields})


def load(data_root: Path, part: type[cifar100.Cifar100] = CifarFS, **fields) -> ClassPool:
    pool = dataset(part, **fields).load(data_root, CPU)
    assert isinstance(pool, ClassPool)
    return pool


@pytest.mark.sampled(1)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_come_to_their_class_and_split_from_every_copy(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled = pixels()
    expected = in_place_of_the_real(monkeypatch, shuffled)
    copy(tmp_path / "data", layout, shuffled)
    pool = load(tmp_path / "data")
    for split, names in published("cifar_fs").items():
        of_split = pool.pools[split]
        assert of_split.names == names and of_split.counts.tolist() == [IMAGES] * len(names)
        images = of_split.images.unflatten(0, (len(names), IMAGES)).permute(0, 1, 3, 4, 2).numpy()
        assert np.array_equal(images, expected[[cifar100.names().index(name) for name in names]])
    assert pool.stamp["split"] == "cifar_fs 64/16/20" and pool.stamp["resize"] == "none, stored at 32x32"
    assert load(tmp_path / "no data", FC100).stamp["split"] == "fc100 60/20/20", "it is in the cache"


def test_other_sizes_and_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = in_place_of_the_real(monkeypatch, pixels())
    copy(tmp_path, "npz", pixels())
    pool = load(tmp_path, size=28, grey=True)
    assert pool.input_shape == dataset(size=28, grey=True).input_shape == (1, 28, 28)
    image = Image.fromarray(expected[cifar100.names().index("baby"), 3])
    shown = np.asarray(image.resize((28, 28), Image.Resampling.LANCZOS).convert("L"))
    assert np.array_equal(pool.pools[Split.test].images[3, 0].numpy(), shown)
    assert pool.stamp["resize"] == "lanczos 28x28, grey"
    assert pool.stamp["pool_sha256"] != load(tmp_path).stamp["pool_sha256"]


def test_changed_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar100, "_from_download", lambda _: (_ for _ in ()).throw(OSError("no net")))
    copied = pixels()
    in_place_of_the_real(monkeypatch, copied)
    copied[7, 3, 5, 5, 1] ^= 1
    copy(tmp_path, "npz", copied)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    said = str(caught.value)
    assert "\n" not in said and "cifar100.npz: its pixels are not those of CIFAR-100" in said
    assert "Unpack cifar-100-python.tar.gz" in said and str(tmp_path) in said and "no net" in said
    assert not list((tmp_path / "cache").glob("*.json"))


@pytest.mark.full
def test_damaged_copies_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar100, "_from_download", lambda _: (_ for _ in ()).throw(OSError("no net")))
    in_place_of_the_real(monkeypatch, pixels())
    for layout in ("npz", "pickles", "zip of CIFAR-FS"):
        copy(tmp_path, layout, pixels())
    npz, train = tmp_path / "cifar100.npz", tmp_path / "cifar-100-python" / "train"
    npz.write_bytes(npz.read_bytes()[:-500])

    class Call:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    train.write_bytes(pickle.dumps({"data": Call()}))
    next((tmp_path / "cifar100" / "data" / "otter").iterdir()).unlink()
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    said = str(caught.value)
    assert "not a zip file" in said and "it may be malicious" in said and not (tmp_path / "ran").exists()
    assert f"otter holds {IMAGES - 1} images instead of {IMAGES}" in said


def test_no_data_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar100, "_from_download", lambda _: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(UserError, match="dataset=fc100: no source works") as caught:
        load(tmp_path, FC100)
    assert "\n" not in str(caught.value) and "cifar-100-python.tar.gz" in str(caught.value)


def test_yaml_states_the_published_split_and_size() -> None:
    for name in ("cifar_fs", "fc100"):
        x = config.compose([f"dataset={name}"])[0]
        assert (x.dataset.split, x.dataset.input_shape, x.way) == (name, (3, 32, 32), 5)  # type: ignore[attr-defined]


@pytest.mark.full
def test_the_real_data(data_root: Path) -> None:
    pool = load(data_root)
    assert pool.stamp["source"] == "CIFAR-100, sha256 8a0ca92acc1afaab"
    assert [len(pool.pools[split].images) for split in Split] == [64 * 600, 16 * 600, 20 * 600]
    every = {
        name: rows
        for split in Split
        for name, rows in zip(pool.pools[split].names, pool.pools[split].images.unflatten(0, (-1, 600)), strict=True)
    }
    ordered = np.stack([every[name].permute(0, 2, 3, 1).numpy() for name in cifar100.names()])
    assert hashlib.sha256(ordered.tobytes()).hexdigest() == cifar100.SHA256
    mean = ordered.reshape(-1, 3).mean(0) / 255  # of the 50,000 training images others state 0.5071, 0.4865, 0.4409
    assert np.abs(mean - (0.5071, 0.4865, 0.4409)).max() < 1e-3
