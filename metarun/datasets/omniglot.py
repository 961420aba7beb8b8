"""Omniglot: Lake, Salakhutdinov and Tenenbaum 2015, "Human-level concept learning"; 1,623 characters by 20 people."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metarun.compat.torchvision import impatient, nothing_left, torchvision
from metarun.datasets.base import Dataset, Split, Tasks, first_that_works
from metarun.datasets.imagefile import read, shown, square_of
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import require
from metarun.files import cache_dir, cached_arrays
from metarun.progress import progress_bar

CHARACTERS, DRAWINGS, SIDE = 1623, 20, 105


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
        by_hand = (
            "put images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot (folder python), "
            f"unpacked, into {data_root / 'omniglot-py'}, or set data_root to a folder that has omniglot-py or "
            f"omniglot.npz (bool array 'ink' [{CHARACTERS}, {DRAWINGS}, {SIDE}, {SIDE}])"
        )
        pages = first_that_works("omniglot", sources, data_root, cache_dir() / f"{name}.npz", by_hand)
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
    with np.load(path) as file:
        ink = file["ink"]
    if ink.shape != (CHARACTERS, DRAWINGS, SIDE, SIDE):
        raise ValueError(f"array 'ink' has shape {ink.shape}")
    return np.where(ink, np.uint8(0), np.uint8(255))  # whole numbers of 64 bits would take 3 GB


def _from_folders(data_root: Path) -> np.ndarray:
    """Read ``images_{background,evaluation}/ALPHABET/CHARACTER/0001_01.png``: character and drawing, from 1."""
    files = sorted((data_root / "omniglot-py").glob("images_*/*/*/*.png"))
    if not files:
        raise FileNotFoundError("not there")
    if len(files) != CHARACTERS * DRAWINGS:
        raise ValueError(f"holds {len(files)} drawings instead of {CHARACTERS * DRAWINGS}")
    pages = np.zeros((CHARACTERS, DRAWINGS, SIDE, SIDE), np.uint8)
    for path in progress_bar(files, desc="reading omniglot", unit="drawing", leave=True):
        character, drawing = path.stem.split("_")
        with Image.open(path) as image:
            page = np.asarray(shown(image).convert("L"))
        if page.shape != (SIDE, SIDE):
            raise ValueError(f"{path} has {page.shape[1]}x{page.shape[0]} pixels instead of {SIDE}x{SIDE}")
        pages[int(character) - 1, int(drawing) - 1] = page
    return pages


def _from_download(data_root: Path) -> np.ndarray:
    """Download by torchvision, which verifies the MD5 sums of both archives."""
    with impatient(), nothing_left(data_root / "omniglot-py"):
        data_root.mkdir(parents=True, exist_ok=True)
        for background in (True, False):
            torchvision().datasets.Omniglot(str(data_root), background=background, download=True)
    return _from_folders(data_root)
