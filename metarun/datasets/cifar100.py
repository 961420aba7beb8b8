"""CIFAR-100 (Krizhevsky 2009) as few-shot data use it: 100 classes of 600 images, training and test images merged.

Copies differ in the order of their images. Here images are sorted by their bytes within a class, so that tasks are the
same from every copy, and one checksum tells whether a copy is right.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from metarun.compat.torchvision import impatient, nothing_left, torchvision
from metarun.datasets.about import About, File
from metarun.datasets.base import Dataset, first_that_works
from metarun.datasets.imagefile import image_files, read
from metarun.datasets.listed import ListedImages, Source
from metarun.datasets.split_file import Listed, published
from metarun.datasets.unpickle import arrays
from metarun.files import cache_dir
from metarun.progress import progress_bar

IMAGES, SIDE = 600, 32
SHA256 = "8a0ca92acc1afaab9763c4b1318626129692e482c04eccd97ecc4d4975d65d0b"  # of all images, sorted, [H, W, 3] each
TREES = (  # class folders below these folders of data_root
    *("cifar100/data", "cifar-fs/cifar100/data", "cifarfs/cifar100/data", "CIFAR-FS/cifar100/data", "cifarfs/data"),
    *(f"{name}/*" for name in ("cifar-fs", "cifarfs", "cifar_fs", "CIFAR-FS", "CIFARFS", "CIFAR_FS", "fc100", "FC100")),
)

PYTHON = "cifar-100-python"  # torchvision's folder


def about_cifar100(citation: str, splits: str) -> About:
    """Return what is known of CIFAR-100 in one of its few-shot splits."""
    return About(
        title="small photographs, CIFAR-100",
        citation=citation,
        classes=100,
        images=100 * IMAGES,
        splits=splits,
        licence="none stated",
        size=169_001_437,
        files=(  # MD5 sums as in torchvision
            File(name="cifar-100-python.tar.gz", md5="eb9058c3a382ffc7106e4002c42a8d85", bytes=169_001_437),
            File(name=f"{PYTHON}/train", md5="16019d7e3df5f24257cddd939b257f8d"),
            File(name=f"{PYTHON}/test", md5="f0ef6b0ae62326f3e7ffdfab6717acfc"),
            File(name=f"{PYTHON}/meta", md5="7973b15100ade9c7d40fb424638fde48"),
        ),
        by_hand="Unpack cifar-100-python.tar.gz of cs.toronto.edu/~kriz/cifar.html in {data_root}, or Bertinetto's "
        "cifar100.zip (github.com/bertinetto/r2d2), or set data_root to a folder that has either.",
        downloads=True,
        places=("cifar100.npz", PYTHON, *(tree.removesuffix("/*") for tree in TREES)),
    )


@dataclass(kw_only=True, slots=True)
class Cifar100(ListedImages):
    """CIFAR-100 in one of its few-shot splits."""

    def find(self, data_root: Path, listed: Listed) -> Source:
        every = functools.cache(lambda: images(data_root, self))
        number = {name: c for c, name in enumerate(names())}
        told, key = f"CIFAR-100, sha256 {SHA256[:16]}", f"cifar100-{SHA256[:16]}"
        return Source(told, key, dict.fromkeys(number, IMAGES), lambda name: every()[number[name]])

    def download(self, data_root: Path) -> None:
        download(data_root)


def names() -> list[str]:
    """List the classes, in alphabetical order, which is that of the official labels."""
    return sorted(name for of_split in published("cifar_fs").values() for name in of_split)


def images(data_root: Path, dataset: Dataset) -> np.ndarray:
    """Read all images from the first source that works.

    Args:
        data_root: folder of the data sets.
        dataset: data set that they are for; says what to do where none works.

    Returns:
        uint8 [100, 600, 32, 32, 3], classes in alphabetical order, images of a class sorted by their bytes.

    Raises:
        UserError: no source works; the message lists what was tried.
    """
    sources = {
        f"{data_root / 'cifar100.npz'}": _from_npz,
        f"{data_root / PYTHON} (torchvision's folder)": _from_pickles,
        f"class folders in {data_root} (cifar100/data of Bertinetto's zip; cifar-fs or fc100)": _from_folders,
        "download by torchvision": _from_download,
    }
    assert dataset.about is not None
    by_hand, name = dataset.about.by_hand_in(data_root), type(dataset).__module__.rpartition(".")[2]
    return first_that_works(name, sources, data_root, cache_dir() / "cifar100-*.npy", by_hand)


def in_order(of_class: Iterable[np.ndarray]) -> np.ndarray:
    """Sort the images of each class, and check that they are those of CIFAR-100.

    Args:
        of_class: images of each class, uint8 [600, 32, 32, 3], classes in alphabetical order.

    Raises:
        ValueError: they are not.
    """
    every = np.empty((len(names()), IMAGES, SIDE, SIDE, 3), np.uint8)
    for name, place, some in zip(names(), every, of_class, strict=True):
        if some.shape != place.shape or some.dtype != np.uint8:
            raise ValueError(f"class {name} is {some.dtype} {some.shape} instead of uint8 {place.shape}")
        place[:] = some[sorted(range(IMAGES), key=lambda i: some[i].tobytes())]
    if (found := hashlib.sha256(every.data).hexdigest()) != SHA256:
        raise ValueError(
            f"its pixels are not those of CIFAR-100 (sha256 of the sorted images {found[:16]} instead of "
            f"{SHA256[:16]}); dataset=image_folder takes changed images, such as JPEG"
        )
    return every


def _from_npz(data_root: Path) -> np.ndarray:
    """Read ``cifar100.npz``: for each class a lossless mosaic of its images, an image file as uint8."""
    path = data_root / "cifar100.npz"
    if not path.exists():
        raise FileNotFoundError("not there")
    with open(path, "rb") as opened, np.load(opened) as file:
        if missing := [name for name in names() if name not in file]:
            raise ValueError(f"has no class {missing[0]}")
        return in_order(_tiles(file[name].tobytes()) for name in _shown(names()))


def _tiles(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        mosaic = np.asarray(image.convert("RGB"))
    rows, columns = (side // SIDE for side in mosaic.shape[:2])
    return mosaic.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)


def _from_pickles(data_root: Path) -> np.ndarray:
    """Read ``train`` and ``test``: ``data`` [n, 3 * 32 * 32] uint8 and ``fine_labels``, 0..99."""
    folder = data_root / PYTHON
    if not folder.is_dir():
        raise FileNotFoundError("not there")
    parts = [arrays(folder / part) for part in ("train", "test")]
    data = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    labels = np.concatenate([part["fine_labels"] for part in parts])
    return in_order(data[labels == c] for c in range(len(names())))


def _from_folders(data_root: Path) -> np.ndarray:
    """Read PNG files in a folder for each class, which may lie in folders for train, val and test."""
    for tree in TREES:
        folders = {path.name: path for path in data_root.glob(f"{tree}/[!.]*") if path.is_dir()}
        if not folders:
            continue
        if missing := [name for name in names() if name not in folders]:
            raise ValueError(f"{data_root / tree} has no folder {missing[0]}")
        return in_order(_folder(folders[name]) for name in _shown(names()))
    raise FileNotFoundError("not there")


def _folder(folder: Path) -> np.ndarray:
    files = image_files(folder, (".png", ".jpg", ".jpeg"))
    if len(files) != IMAGES:
        raise ValueError(f"{folder} holds {len(files)} images instead of {IMAGES}")
    return np.stack([np.asarray(read(path, lambda image: image.convert("RGB"))) for path in files])


def download(data_root: Path) -> None:
    """Download by torchvision, which verifies the MD5 sum of the archive."""
    with impatient(), nothing_left(data_root / PYTHON):
        data_root.mkdir(parents=True, exist_ok=True)
        torchvision().datasets.CIFAR100(str(data_root), download=True)


def _from_download(data_root: Path) -> np.ndarray:
    download(data_root)
    return _from_pickles(data_root)


def _shown(classes: list[str]) -> Iterable[str]:
    return progress_bar(classes, desc="reading cifar-100", unit="class", leave=True)
