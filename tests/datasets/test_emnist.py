from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.datasets import emnist
from metarun.datasets.base import Split
from metarun.datasets.emnist import EMNIST, NAMES
from metarun.datasets.imagefile import Filter
from metarun.datasets.sampler import ClassPool
from metarun.errors import UserError
from tests.support.listed_images import write_emnist

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(emnist, "_from_download", lambda _: (_ for _ in ()).throw(OSError("no net")))


def dataset(**fields) -> EMNIST:
    plain = {"split": "emnist", "size": 28, "resize": Filter.lanczos, "grey": True, "invert": True}
    return EMNIST(**{**plain, **fields})


def load(data_root: Path, **fields) -> ClassPool:
    pool = dataset(**fields).load(data_root, CPU)
    assert isinstance(pool, ClassPool)
    return pool


def test_torchvisions_files_become_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = write_emnist(tmp_path)
    monkeypatch.setattr(emnist, "IMAGES", len(images))
    pool, dark = load(tmp_path), load(tmp_path, invert=False)
    for split, first in ((Split.val, 0), (Split.test, 1)):
        wanted = np.concatenate([images[labels == c] for c in range(first, 62, 2)])[:, None]
        assert np.array_equal(pool.pools[split].images.numpy(), wanted)
        assert np.array_equal(dark.pools[split].images.numpy(), 255 - wanted)
        assert pool.pools[split].names == NAMES[first::2]
    assert not pool.has(Split.train)
    assert pool.stamp["images"] == f"{len(images)}, 3 to 5 a class" and pool.stamp["split"] == "emnist 0/31/31"
    assert (pool.stamp["source"], dark.stamp["source"]) == ("byclass, ink 1 on 0", "byclass, ink 0 on 1")
    assert dataset().ink and not dataset(invert=False).ink
    colours = load(tmp_path, grey=False, size=32)
    assert colours.input_shape == (3, 32, 32) and colours.stamp["resize"] == "lanczos 32x32"


def test_a_page_of_a_user(tmp_path: Path) -> None:
    page = np.full((40, 60), 255, np.uint8)
    page[10:30, 25:35] = 0  # dark on light
    Image.fromarray(page).save(tmp_path / "page.png")
    bright, dark = (dataset(invert=invert).picture(tmp_path / "page.png") for invert in (True, False))
    assert bright.shape == (1, 28, 28) and np.array_equal(bright, 255 - dark) and bright[0, 14, 14] == 255


def test_files_that_do_not_fit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal() -> str:
        with pytest.raises(UserError, match="dataset=emnist: no source works") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value) and "gzip.zip" in str(caught.value)
        return str(caught.value)

    assert "emnist_fewshot.npz: not there" in refusal() and "no net" in refusal()
    images, _ = write_emnist(tmp_path)
    assert f"holds {len(images)} images instead of 814255" in refusal()
    monkeypatch.setattr(emnist, "IMAGES", len(images))
    labels = next((tmp_path / emnist.RAW).glob("*test-labels*"))
    labels.write_bytes(labels.read_bytes()[:-1] + bytes([62]))
    assert "a label is 62" in refusal()
    labels.unlink()
    assert f"{labels.name} is not there" in refusal()
    np.savez(tmp_path / "emnist_fewshot.npz", images=np.zeros((62, 2, 28, 28), np.uint8), names=NAMES)
    assert "its images are not those of the published test" in refusal()


def test_its_split_has_no_class_for_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = write_emnist(tmp_path)
    monkeypatch.setattr(emnist, "IMAGES", len(images))
    with pytest.raises(UserError, match=r"only 0 classes; .*metarun eval run=RUN dataset=emnist.*JSON file can list"):
        load(tmp_path).check(Split.train, 5, 1, 1)


def test_the_real_few(data_root: Path) -> None:
    pool = load(data_root)
    assert [len(pool.pools[split].counts) for split in Split] == [0, 31, 31]
    assert pool.pools[Split.test].counts.tolist() == [200] * 31 and pool.pools[Split.test].names[:6] == [*"13579B"]
    ones = pool.pools[Split.test].images[:200, 0].float().mean(0) / 255
    assert ones[:, 10:18].sum() > 4 * (ones.sum() - ones[:, 10:18].sum()), "a stroke from top to bottom: upright"
    assert ones[14, 14] > 0.8 and ones[0].max() < 0.05, "ink is 1 on 0"
    sevens = pool.pools[Split.test].images[600:800, 0].float().mean(0)
    assert sevens[:14].sum() > sevens[14:].sum(), "not upside down"
