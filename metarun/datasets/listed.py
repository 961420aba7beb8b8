"""What data sets of images by class have in common whose splits are lists of class names (split_file.py)."""

from __future__ import annotations

import abc
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from metarun.datasets.base import Dataset, Split, Tasks
from metarun.datasets.image_store import stored
from metarun.datasets.imagefile import Filter, read, shown, square_of
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.datasets.split_file import Listed, listed_in
from metarun.errors import UserError, require_count
from metarun.progress import progress_bar

Picture = np.ndarray | bytes | Path  # uint8 [H, W, 3] or [H, W], or an encoded image, or a file of one


@dataclass(frozen=True)
class Source:
    """One copy of a data set.

    Attributes:
        told: what it is, for the protocol.
        key: name in the cache; copies with other images have another one.
        counts: class name -> how many images it has.
        pictures: class name -> its images, in order; called only where the prepared images are not in the cache.
    """

    told: str
    key: str
    counts: dict[str, int]
    pictures: Callable[[str], Iterable[Picture]]


@dataclass(kw_only=True, slots=True)
class ListedImages(Dataset):
    """Images by class.

    Images of another size, and those that are not square, are cut to their centre square and resized.

    Attributes:
        side: pixels a side of its images, where all are squares of one size.
        split: a published list of classes (``splits/NAME.json``), or the path of such a file, relative to data_root or
            absolute.
        size: pixels a side.
        resize: filter for images of another size.
        grey: whether images have one channel instead of three.
    """

    side: ClassVar[int | None] = None
    split: str
    size: int
    resize: Filter
    grey: bool

    def __post_init__(self) -> None:
        require_count("size", self.size, most=10**4)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1 if self.grey else 3, self.size, self.size

    @abc.abstractmethod
    def find(self, data_root: Path, listed: Listed) -> Source:
        """Find the data.

        Args:
            data_root: folder of the data sets.
            listed: class names of each split, which are all that is needed.

        Raises:
            UserError: there are none, or they are not complete; says what to put where.
        """

    def picture(self, path: Path) -> np.ndarray:
        return self.converted(read(path, shown))

    def prepared(self, picture: Picture) -> np.ndarray:
        """Return an image of the data set as the network gets it, uint8 [C, size, size].

        Raises:
            Unreadable: the file cannot be read; names the file.
        """
        if isinstance(picture, Path):
            return self.converted(read(picture, in_colour))
        if isinstance(picture, bytes):
            with Image.open(io.BytesIO(picture)) as image:
                return self.converted(in_colour(image))
        return self.converted(Image.fromarray(picture))

    def converted(self, image: Image.Image) -> np.ndarray:
        """Return the centre square of an image in the size and channels that are asked for, uint8 [C, size, size]."""
        pixels = np.asarray(self.resize.apply(square_of(image), self.size).convert("L" if self.grey else "RGB"))
        return pixels[None] if self.grey else pixels.transpose(2, 0, 1)

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        listed, told = listed_in(self.split, data_root)
        source = self.find(data_root, listed)
        names = list(source.counts)
        images, sha256 = self._images(source)
        number = {name: c for c, name in enumerate(names)}
        missing = [name for of_split in listed.values() for name in of_split if not source.counts.get(name)]
        if missing:
            module = type(self).__module__.rpartition(".")[2]
            raise UserError(f"dataset.split={self.split}: dataset={module} has no class {missing[0]}")
        splits = {split: [number[name] for name in listed[split]] for split in Split}
        stamp = {"split": told, "source": source.told, **self.protocol(), "pool_sha256": sha256[:16]}
        return ClassPool(images, list(source.counts.values()), splits, Rotations.none, device, stamp, names=names)

    def protocol(self) -> dict[str, str]:
        """Return what was done to the images, for the protocol."""
        square, resized = f"{self.size}x{self.size}", "" if self.side else "centre square, "
        how = f"none, stored at {square}" if self.size == self.side else f"{resized}{self.resize.name} {square}"
        return {"resize": f"{how}{', grey' if self.grey else ''}", "rotations": Rotations.none.name}

    def _images(self, source: Source) -> tuple[np.ndarray, str]:
        """All images, class by class, and their checksum."""

        def fill(images: np.ndarray) -> None:
            done = 0
            for name in progress_bar(source.counts, desc="preparing images", unit="class", leave=True):
                for picture in source.pictures(name):
                    images[done] = self.prepared(picture)
                    done += 1

        kind = f"{self.size}-{self.resize.name}-{'grey' if self.grey else 'colour'}"
        return stored(f"{source.key}-{kind}", (sum(source.counts.values()), *self.input_shape), fill)


def in_colour(image: Image.Image) -> Image.Image:
    """Convert as ``shown`` does, but without rotation by EXIF data, which the published codes ignore."""
    return shown(image, upright=False)
