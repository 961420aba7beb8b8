"""MNIST: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition"."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from metarun.compat.torchvision import impatient, nothing_left, torchvision
from metarun.datasets.about import About, File
from metarun.datasets.base import Dataset, Split, Tasks, first_that_works
from metarun.datasets.imagefile import AS_SHOWN, SQUARE, read, shown, square_of
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import require_count
from metarun.files import cache_dir, cached_arrays

TRAINING, TEST, SIDE = 60_000, 10_000, 28  # images of the two files, pixels a side
HELD_OUT = 5_000  # last images of the training file, for validation

ABOUT = About(
    title="handwritten digits",
    citation="LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition",
    classes=10,
    images=TRAINING + TEST,
    splits="5/0/5 digits, or images of all ten",
    licence="none stated",
    size=54_950_048,
    files=(
        File(
            name="MNIST/raw/train-images-idx3-ubyte", md5="6bbc9ace898e44ae57da46a324031adb", bytes=16 + 784 * TRAINING
        ),
        File(name="MNIST/raw/train-labels-idx1-ubyte", md5="a25bea736e30d166cdddb491f175f624", bytes=8 + TRAINING),
        File(name="MNIST/raw/t10k-images-idx3-ubyte", md5="2646ac647ad5339dbf082846283269ea", bytes=16 + 784 * TEST),
        File(name="MNIST/raw/t10k-labels-idx1-ubyte", md5="27ae3e4e09519cfbb04c329615203637", bytes=8 + TEST),
    ),
    by_hand="Put train-images-idx3-ubyte and the three other files, unpacked, into {data_root}/MNIST/raw, or set "
    "data_root.",
    downloads=True,
    places=("MNIST/raw",),
)


class NamedSplit(enum.Enum):
    """How meta-training, validation and test differ.

    Attributes:
        digits: the digits. Meta-training has 0-4 and meta-test 5-9, each with the images of both files; there are no
            validation digits.
        images: the images of the same ten digits: the training file without its last 5,000 images, those 5,000, and the
            test file. A task has all ten digits (way is 10) and the label is the digit, so that a network can classify
            them without adapting.
    """

    digits = "digits"
    images = "images"


@dataclass(kw_only=True, slots=True)
class MNIST(Dataset):
    """Grey images of ``size`` pixels a side, in the splits that ``split`` names."""

    about: ClassVar[About | None] = ABOUT
    split: NamedSplit
    size: int

    def __post_init__(self) -> None:
        require_count("size", self.size, most=10**4)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1, self.size, self.size

    @property
    def fixed_labels(self) -> bool:
        return self.split is NamedSplit.images

    @property
    def ink(self) -> bool:
        return True

    def picture(self, path: Path) -> np.ndarray:
        """Read an image file of light strokes on black, as MNIST's images are."""
        square = square_of(read(path, shown).convert("L"))
        return _resized(np.asarray(square), self.size)[None]

    def download(self, data_root: Path) -> None:
        _from_download(data_root)

    @property
    def reading(self) -> str:
        return f"{AS_SHOWN}; grey; {SQUARE.format(self.size)} (Lanczos); strokes are 1"

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        images, digits = prepared(data_root, self.size)
        if self.split is NamedSplit.digits:
            classes, splits = digits, {Split.train: [*range(5)], Split.val: [], Split.test: [*range(5, 10)]}
            description = "digits 0-4/none/5-9"
        else:  # digit d is class d in training, 10 + d in validation, 20 + d in test
            sizes = [TRAINING - HELD_OUT, HELD_OUT, TEST]
            classes = digits + 10 * np.repeat(np.arange(3), sizes)
            splits = {split: [*range(10 * i, 10 * i + 10)] for i, split in enumerate(Split)}
            description = f"images {'/'.join(map(str, sizes))}, labels are the digits"
        counts = np.bincount(classes)
        stamp = {
            "split": description,
            "resize": f"none, stored at {SIDE}x{SIDE}" if self.size == SIDE else f"antialias {self.size}x{self.size}",
            "rotations": Rotations.none.name,
        }
        return ClassPool(
            images[np.argsort(classes, kind="stable"), None],
            counts,
            splits,
            Rotations.none,
            device,
            stamp,
            names=[str(c % 10) for c in range(len(counts))],
            fixed_labels=self.split is NamedSplit.images,
        )


def prepared(data_root: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Load all images from the cache, or from the first source that works.

    Returns:
        (images uint8 [70000, size, size] with ink 255, digits int64 [70000]); the training file comes first.

    Raises:
        UserError: no source works; the message lists what was tried.
    """
    name = f"mnist-{size}"

    def make() -> dict[str, np.ndarray]:
        raw = data_root / "MNIST" / "raw"
        sources = {f"{raw} (torchvision's files)": _from_files, "download by torchvision": _from_download}
        images, digits = first_that_works(
            "mnist", sources, data_root, cache_dir() / f"{name}.npz", ABOUT.by_hand_in(data_root)
        )
        if size != SIDE:
            images = np.stack([_resized(image, size) for image in images])
        return {"images": images, "digits": digits}

    cached = cached_arrays(name, make)
    return cached["images"], cached["digits"]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def _from_files(data_root: Path) -> tuple[np.ndarray, np.ndarray]:
    return _read(data_root, download=False)


def _from_download(data_root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Download by torchvision, which verifies the MD5 sums of the four files."""
    with impatient(), nothing_left(data_root / "MNIST" / "raw"):
        return _read(data_root, download=True)


def _read(data_root: Path, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [70000, 28, 28] and digits int64 [70000]."""
    parts = [torchvision().datasets.MNIST(str(data_root), train=train, download=download) for train in (True, False)]
    for part, count in zip(parts, (TRAINING, TEST), strict=True):
        if part.data.shape != (count, SIDE, SIDE) or part.targets.shape != (count,):
            raise ValueError(f"holds {len(part.targets)} labels and images {[*part.data.shape]} instead of {count}")
    return torch.cat([part.data for part in parts]).numpy(), torch.cat([part.targets for part in parts]).numpy()
