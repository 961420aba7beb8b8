"""EMNIST: Cohen et al. 2017, handwritten digits and letters in 62 classes; tests of networks trained on Omniglot."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from metarun.compat.torchvision import impatient, nothing_left, torchvision
from metarun.datasets.about import About, File
from metarun.datasets.base import first_that_works
from metarun.datasets.imagefile import read, shown
from metarun.datasets.listed import ListedImages, Picture, Source
from metarun.datasets.listed_sources import in_npz
from metarun.datasets.split_file import Listed
from metarun.files import cache_dir

IMAGES = 814_255  # of the whole
NAMES, SIDE = [*string.digits, *string.ascii_uppercase, *string.ascii_lowercase], 28  # in the order of the labels
FEW = "9ca59ef2b1f01242"  # of the SHA-256 of the images of emnist_fewshot.npz
RAW = "EMNIST/raw"  # torchvision's folder
PARTS = ("emnist-byclass-train", "emnist-byclass-test")

ABOUT = About(
    title="handwritten digits and letters",
    citation="Cohen, Afshar, Tapson and van Schaik 2017, EMNIST; split of Chen et al. 2019",
    classes=62,
    images=IMAGES,
    splits="0/31/31 classes, to test networks trained on Omniglot",
    licence="none stated; NIST Special Database 19",
    size=None,
    files=(File(name=f"{RAW}/gzip.zip", md5="58c8d27c78d21e728a6bc7b3cc06412e"),),
    by_hand="Put emnist-byclass-train-images-idx3-ubyte and the three other byclass files of gzip.zip "
    "(biometrics.nist.gov/cs_links/EMNIST), unpacked, into {data_root}/EMNIST/raw, or set data_root.",
    downloads=True,
    places=("emnist_fewshot.npz", *(f"{RAW}/{part}-images-idx3-ubyte" for part in PARTS)),
)


@dataclass(kw_only=True, slots=True)
class EMNIST(ListedImages):
    """Digits and letters, upright, from the few images of a published test or all of EMNIST.

    Attributes:
        invert: true: ink is 1 on 0 (as Omniglot is read for MAML); false: ink is 0 on 1 (as in the published test).
    """

    about: ClassVar[About | None] = ABOUT
    invert: bool

    @property
    def ink(self) -> bool:
        return self.invert

    def picture(self, path: Path) -> np.ndarray:
        drawn = self.converted(read(path, shown))  # a user's page is dark on light
        return 255 - drawn if self.invert else drawn

    def download(self, data_root: Path) -> None:
        download(data_root)

    def find(self, data_root: Path, listed: Listed) -> Source:
        sources = {
            f"{data_root / 'emnist_fewshot.npz'}": _from_npz,
            f"{data_root / RAW} (torchvision's files)": _from_files,
            "download by torchvision": _from_download,
        }
        cache = cache_dir() / "emnist-*.npy"
        source = first_that_works("emnist", sources, data_root, cache, ABOUT.by_hand_in(data_root))
        if self.invert:  # as in the files
            return replace(source, told=f"{source.told}, ink 1 on 0")
        bright = source.pictures

        def dark(name: str) -> Iterable[Picture]:
            return (255 - np.asarray(picture) for picture in bright(name))

        return replace(source, told=f"{source.told}, ink 0 on 1", key=f"{source.key}-dark", pictures=dark)


def _from_npz(data_root: Path) -> Source:
    """Read the images of the published test: 200 of each class, chosen by Chen et al."""
    path = data_root / "emnist_fewshot.npz"
    if not path.exists():
        raise FileNotFoundError("not there")
    source = in_npz(path, "emnist")
    if not source.key.endswith(FEW) or list(source.counts) != NAMES:
        raise ValueError(f"its images are not those of the published test ({source.told} instead of {FEW})")
    return replace(source, told=f"200 images a class, sha256 {FEW}")


def _from_files(data_root: Path) -> Source:
    """Map torchvision's files into memory; images lie in them with rows and columns exchanged."""
    folder = data_root / RAW
    paths = [folder / f"{part}-{kind}" for part in PARTS for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError("not there" if len(missing) == len(paths) else f"{missing[0].name} is not there")
    pages = [np.memmap(path, np.uint8, "r", 16).reshape(-1, SIDE, SIDE) for path in paths[::2]]
    labels = [np.fromfile(path, np.uint8, offset=8) for path in paths[1::2]]
    if [len(some) for some in pages] != [len(some) for some in labels]:
        raise ValueError(f"{[len(some) for some in pages]} images, and {[len(some) for some in labels]} labels")
    if (found := sum(map(len, labels))) != IMAGES:
        raise ValueError(f"holds {found} images instead of {IMAGES}")
    counts = np.bincount(np.concatenate(labels), minlength=len(NAMES))
    if len(counts) > len(NAMES):
        raise ValueError(f"a label is {len(counts) - 1}; there are {len(NAMES)} classes, from 0")

    def pictures(name: str) -> Iterable[Picture]:
        c = NAMES.index(name)
        return (some[i].T for some, of in zip(pages, labels, strict=True) for i in np.flatnonzero(of == c))

    digest = hashlib.sha256(b"".join(of.tobytes() for of in labels)).hexdigest()[:16]
    return Source("byclass", f"emnist-byclass-{digest}", dict(zip(NAMES, counts.tolist(), strict=True)), pictures)


def download(data_root: Path) -> None:
    """Download by torchvision, which verifies the MD5 sum of the archive."""
    with impatient(), nothing_left(data_root / RAW):
        data_root.mkdir(parents=True, exist_ok=True)
        torchvision().datasets.EMNIST(str(data_root), split="byclass", download=True)


def _from_download(data_root: Path) -> Source:
    download(data_root)
    return _from_files(data_root)
