"""Omniglot: Lake, Salakhutdinov and Tenenbaum 2015, "Human-level concept learning"; 1,623 characters by 20 people."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from metarun.compat.torchvision import impatient, nothing_left, torchvision
from metarun.datasets import picture_check
from metarun.datasets.about import About, File
from metarun.datasets.base import Dataset, Split, Tasks, first_that_works
from metarun.datasets.imagefile import AS_SHOWN, SQUARE, read, shown, square_of
from metarun.datasets.inspection import limited
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import first_line, require
from metarun.files import cache_dir, cached_arrays
from metarun.progress import progress_bar

CHARACTERS, DRAWINGS, SIDE = 1623, 20, 105
# of numpy.packbits of the ink, [1623, 20, 105, 105], as the original PNG files have it
INK_SHA256 = "48b48d807b25c6e902ebfe31da7a00ad3614e2a1014e97fe7b5a8d8f0399727b"

ABOUT = About(
    title="handwritten characters",
    citation="Lake, Salakhutdinov and Tenenbaum 2015, Human-level concept learning",
    classes=CHARACTERS,
    images=CHARACTERS * DRAWINGS,
    splits="1100/100/423 characters and others",
    licence="MIT",
    size=None,
    files=(  # MD5 sums as in torchvision
        File(name="omniglot-py/images_background.zip", md5="68d2efa1b9178cc56df9314c21c6e718"),
        File(name="omniglot-py/images_evaluation.zip", md5="6b91aef0f799c5bb55b94e3f2daec811"),
    ),
    by_hand="Put images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot (folder python), "
    "unpacked, into {data_root}/omniglot-py, or set data_root to a folder that has omniglot-py or omniglot.npz (bool "
    f"array 'ink' [{CHARACTERS}, {DRAWINGS}, {SIDE}, {SIDE}]).",
    downloads=True,
    places=("omniglot.npz", "omniglot-py"),
)


class NamedSplit(enum.Enum):
    """Characters of meta-training, validation and test; the lists are in ``splits/omniglot_*.json``.

    MAML and Reptile published only the sizes of their splits. Those lists are drawn at random from all alphabets here,
    and have the same test characters.

    Attributes:
        maml: 1100/100/423, random.
        reptile: 1200/0/423, random.
        vinyals: 1028/172/423, the published list: whole alphabets, except for four characters of one.
        lake: 964/0/659, the published list: the original background and evaluation alphabets.
    """

    maml = "maml"
    reptile = "reptile"
    vinyals = "vinyals"
    lake = "lake"

    def characters(self) -> dict[Split, list[int]]:
        """Return the character numbers, 0..1622, of each split."""
        text = resources.files("metarun.datasets").joinpath(f"splits/omniglot_{self.value}.json").read_text()
        listed = json.loads(text)
        return {split: listed[split.name] for split in Split}


class Resize(enum.Enum):
    """How 105x105 pixels become a smaller square.

    Attributes:
        nearest: each pixel is one source pixel, so images stay black and white. The code published with MAML and
            Reptile does this: it calls for Lanczos, but Pillow resizes 1-bit images by nearest neighbour.
        antialias: Lanczos on grey values, as in most ports.
    """

    nearest = "nearest"
    antialias = "antialias"

    def apply(self, image: Image.Image, size: int) -> Image.Image:
        """Resize an image to ``size`` pixels a side."""
        nearest = self is Resize.nearest
        return image.resize((size, size), Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS)


@dataclass(kw_only=True, slots=True)
class Omniglot(Dataset):
    """Handwritten characters; a class is a character, with 20 images.

    Attributes:
        split: characters of meta-training, validation and test.
        size: pixels a side.
        resize: how images become smaller.
        invert: true: ink is 1 on 0 (MAML); false: ink is 0 on 1, as in the files (Reptile).
        rotations: quarter turns as augmentation.
    """

    about: ClassVar[About | None] = ABOUT
    split: NamedSplit
    size: int
    resize: Resize
    invert: bool
    rotations: Rotations

    def __post_init__(self) -> None:
        require(1 <= self.size <= SIDE, "size", self.size, f"1..{SIDE}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1, self.size, self.size

    @property
    def ink(self) -> bool:
        return self.invert

    def picture(self, path: Path) -> np.ndarray:
        page = square_of(read(path, shown).convert("L"))
        if self.resize is Resize.nearest:
            page = page.point(lambda grey: 255 * (grey >= 128), "1")  # as the files of this data set
        drawn = np.asarray(self.resize.apply(page, self.size).convert("L"))[None]
        return 255 - drawn if self.invert else drawn

    def download(self, data_root: Path) -> None:
        download(data_root)

    def problems(self, data_root: Path) -> Iterator[str]:
        npz, root = data_root / "omniglot.npz", data_root / "omniglot-py"
        if npz.exists():  # which is read first
            try:
                yield from _changed(_from_npz(data_root))
                return
            except Exception as error:  # numpy, zip and zlib raise many kinds for a file that is not as it was written
                yield f"damaged: {npz} ({first_line(error)})"
        if not root.exists():
            return
        expected = {f"{c:04d}_{d:02d}.png" for c in range(1, CHARACTERS + 1) for d in range(1, DRAWINGS + 1)}
        classes: dict[str, list[Path]] = {}
        for path in _files(root):
            classes.setdefault(str(path.parent), []).extend([path] if path.name in expected else [])
        pages = np.zeros((CHARACTERS, DRAWINGS, SIDE, SIDE), np.uint8)
        found = [*picture_check.problems(classes, map(Path, classes), root, lambda path: _put(path, pages))]
        there = {path.name for paths in classes.values() for path in paths}
        yield from found
        yield from limited("missing", sorted(expected - there))
        if not found and there == expected:
            yield from _changed(pages)

    @property
    def reading(self) -> str:
        nearest = "black and white, cut at grey 128, and nearest neighbour"
        how = nearest if self.resize is Resize.nearest else "Lanczos"
        ink = "inverted: ink is 1" if self.invert else "ink is 0"
        return f"{AS_SHOWN}; grey; {SQUARE.format(self.size)} ({how}); {ink}"

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        images = prepared(data_root, self.size, self.resize)
        if self.invert:
            images = 255 - images
        splits = self.split.characters()
        sizes = "/".join(str(len(chosen)) for chosen in splits.values())
        if self.split is NamedSplit.vinyals:  # in older runs it was a random list of the same sizes, without this text
            sizes += ", the published list"
        stamp = {
            "split": f"{self.split.name} {sizes}",
            "resize": f"{self.resize.name} {self.size}x{self.size}{', inverted' if self.invert else ''}",
            "rotations": self.rotations.name,
        }
        flat = images.reshape(-1, 1, self.size, self.size)
        return ClassPool(flat, [DRAWINGS] * CHARACTERS, splits, self.rotations, device, stamp)


def prepared(data_root: Path, size: int, resize: Resize) -> np.ndarray:
    """Load all images from the cache, or from the first source that works, which has uint8 [1623, 20, 105, 105].

    Returns:
        uint8 [1623, 20, size, size], paper 255 and ink 0.

    Raises:
        UserError: no source works; the message lists what was tried.
    """
    name = f"omniglot-{size}-{resize.name}"

    def make() -> dict[str, np.ndarray]:
        sources = {
            f"{data_root / 'omniglot.npz'}": _from_npz,
            f"{data_root / 'omniglot-py'} (torchvision's folders)": _from_folders,
            "download by torchvision": _from_download,
        }
        pages = first_that_works(
            "omniglot", sources, data_root, cache_dir() / f"{name}.npz", ABOUT.by_hand_in(data_root)
        )
        images = np.empty((CHARACTERS, DRAWINGS, size, size), np.uint8)
        for c in progress_bar(range(CHARACTERS), desc="preparing omniglot", unit="character", leave=True):
            for d in range(DRAWINGS):
                images[c, d] = np.asarray(resize.apply(Image.fromarray(pages[c, d]), size))
        return {"images": images}

    return cached_arrays(name, make)["images"]


def _from_npz(data_root: Path) -> np.ndarray:
    path = data_root / "omniglot.npz"
    if not path.exists():
        raise FileNotFoundError("not there")
    with open(path, "rb") as file, np.load(file) as stored:
        ink = stored["ink"]
    if ink.shape != (CHARACTERS, DRAWINGS, SIDE, SIDE):
        raise ValueError(f"array 'ink' has shape {ink.shape}")
    return np.where(ink, np.uint8(0), np.uint8(255))  # whole numbers of 64 bits would take 3 GB


def _files(root: Path) -> list[Path]:
    """List ``images_{background,evaluation}/ALPHABET/CHARACTER/0001_01.png``: character and drawing, from 1."""
    return sorted(root.glob("images_*/*/*/*.png"))


def _from_folders(data_root: Path) -> np.ndarray:
    files = _files(data_root / "omniglot-py")
    if not files:
        raise FileNotFoundError("not there")
    if len(files) != CHARACTERS * DRAWINGS:
        raise ValueError(f"holds {len(files)} drawings instead of {CHARACTERS * DRAWINGS}")
    pages = np.zeros((CHARACTERS, DRAWINGS, SIDE, SIDE), np.uint8)
    for path in progress_bar(files, desc="reading omniglot", unit="drawing", leave=True):
        _put(path, pages)
    return pages


def _put(path: Path, pages: np.ndarray) -> None:
    """Read a drawing to its place in ``pages``. Raises ``Unreadable`` where it cannot be read, or has another size."""
    character, drawing = path.stem.split("_")
    pages[int(character) - 1, int(drawing) - 1] = np.asarray(read(path, _page))


def _page(image: Image.Image) -> Image.Image:
    if image.size != (SIDE, SIDE):
        raise ValueError(f"{image.width}x{image.height} pixels instead of {SIDE}x{SIDE}")
    return shown(image).convert("L")


def _changed(pages: np.ndarray) -> Iterator[str]:
    """Yield a line if drawings are not as published."""
    found = hashlib.sha256(np.packbits(pages < 128).data).hexdigest()
    if found != INK_SHA256:
        yield f"changed: some drawings are not as published (sha256 of all ink {found[:16]}, not {INK_SHA256[:16]})"


def download(data_root: Path) -> None:
    """Download by torchvision, which verifies the MD5 sums of both archives."""
    with impatient(), nothing_left(data_root / "omniglot-py"):
        data_root.mkdir(parents=True, exist_ok=True)
        for background in (True, False):
            torchvision().datasets.Omniglot(str(data_root), background=background, download=True)


def _from_download(data_root: Path) -> np.ndarray:
    download(data_root)
    return _from_folders(data_root)
