"""What data sets of images by class have in common whose splits are lists of class names (split_file.py)."""

from __future__ import annotations

import abc
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from metarun.datasets import picture_check
from metarun.datasets.base import Dataset, Split, Tasks
from metarun.datasets.image_store import Facts, Stored, stored
from metarun.datasets.imagefile import Filter, read, shown, square_of
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.datasets.split_file import Listed, in_words, listed_in
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
        listed: class names of each split, of a copy that is split already and calls its classes otherwise.
        in_files: whether each image is a file of its own.
    """

    told: str
    key: str
    counts: dict[str, int]
    pictures: Callable[[str], Iterable[Picture]]
    listed: Listed | None = None
    in_files: bool = False


@dataclass(kw_only=True, slots=True)
class ListedImages(Dataset):
    """Images by class.

    Images of another size, and those that are not square, are cut to their centre square and resized.

    Attributes:
        complete: how many images the classes of the published split have; None: not checked.
        split: a published list of classes (``splits/NAME.json``), or the path of such a file, relative to data_root or
            absolute.
        size: pixels a side.
        resize: filter for images of another size.
        grey: whether images have one channel instead of three.
    """

    complete: ClassVar[int | None] = None
    split: str
    size: int
    resize: Filter
    grey: bool

    def __post_init__(self) -> None:
        require_count("size", self.size, most=10**4)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1 if self.grey else 3, self.size, self.size

    @property
    def module(self) -> str:
        """Name of the data set in messages."""
        return type(self).__module__.rpartition(".")[2]

    @abc.abstractmethod
    def find(self, data_root: Path, listed: Listed) -> Source:
        """Find the data.

        Args:
            data_root: folder of the data sets.
            listed: class names of each split, which are all that is needed.

        Raises:
            UserError: there are none, or they are not complete; says what to put where.
        """

    def nowhere(self, data_root: Path) -> UserError:
        """Return the error that a data set with ``about`` is in none of its places; says what to put where."""
        about = self.about
        assert about is not None, "its class states what is known of it"
        tried = f"folders tried: {', '.join(about.places)}"
        return UserError(
            f"dataset={self.module}: found no copy in {data_root} ({tried}). {about.by_hand_in(data_root)}"
        )

    def picture(self, path: Path) -> np.ndarray:
        return self.converted(read(path, shown))

    def problems(self, data_root: Path) -> Iterator[str]:
        source = self.find(data_root, listed_in(self.split, data_root)[0])
        if source.in_files:
            classes = {
                name: [path for path in source.pictures(name) if isinstance(path, Path)] for name in source.counts
            }
            folders = {path.parent for paths in classes.values() for path in paths}
            yield from picture_check.problems(classes, folders, data_root, lambda path: self.converted(opened(path)))

    def converted(self, image: Image.Image) -> np.ndarray:
        """Return the centre square of an image in the size and channels that are asked for, uint8 [C, size, size]."""
        mode = "L" if self.grey else "RGB"
        pixels = np.asarray(self.resize.apply(square_of(image), self.size).convert(mode))
        return pixels[None] if self.grey else pixels.transpose(2, 0, 1)

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        listed, own = listed_in(self.split, data_root)
        source = self.find(data_root, listed)
        named = source.listed or listed
        for name in (name for of_split in named.values() for name in of_split):
            if not source.counts.get(name):
                raise UserError(f"dataset.split={self.split}: dataset={self.module} has no images of class {name}")
        images, sha256, facts = self._images(source)
        number = {name: c for c, name in enumerate(source.counts)}
        splits = {split: [number[name] for name in named[split]] for split in Split}
        whole = source.listed is None or all(len(named[split]) == len(listed[split]) for split in Split)
        stamp = {"split": in_words(self.split, named) if whole else f"{in_words('own', named)}, as in the files"}
        stamp |= {"source": source.told, **self._complete(source, named, own)}
        stamp |= {**self.protocol(facts), "rotations": Rotations.none.name, "pool_sha256": sha256[:16]}
        return ClassPool(
            images,
            list(source.counts.values()),
            splits,
            Rotations.none,
            device,
            stamp,
            names=list(source.counts),
            few_classes=self._remedy(named),
        )

    def protocol(self, facts: Facts) -> dict[str, str]:
        """Return what was done to the images, for the protocol.

        Args:
            facts: whether any image was ``cut`` or ``resized``.
        """
        square = f"{self.size}x{self.size}"
        resized = f"{'centre square, ' if facts['cut'] else ''}{self.resize.name} {square}"
        how = resized if facts["cut"] or facts["resized"] else f"none, stored at {square}"
        return {"resize": f"{how}{', grey' if self.grey else ''}"}

    def _complete(self, source: Source, named: Listed, own: bool) -> dict[str, str]:
        """For the protocol, how many images there are, where not all classes have the same number; warns of too few."""
        sizes = [source.counts[name] for of_split in named.values() for name in of_split]
        said = {"images": f"{sum(sizes)}, {min(sizes)} to {max(sizes)} a class"} if len(set(sizes)) > 1 else {}
        known = self.complete
        if known is None or own or sum(sizes) == known:
            return said
        warnings.warn(
            f"dataset={self.module}: has {sum(sizes):,} images; the complete data have {known:,}", stacklevel=3
        )
        return {"images": f"{sum(sizes)} of {known}, {min(sizes)} to {max(sizes)} a class"}

    def _remedy(self, named: Listed) -> str:
        counts = "/".join(str(len(named[split])) for split in Split)
        said = f"; dataset.split={self.split} lists {counts} in train, val and test"
        if named[Split.train]:
            return said
        test = f"metarun eval run=RUN dataset={self.module}"
        return f"{said}: it tests what was trained on other data ({test}), and a JSON file can list others"

    def _images(self, source: Source) -> Stored:
        """All images, class by class."""

        def fill(images: np.ndarray) -> Facts:
            done, facts = 0, {"cut": False, "resized": False}
            for name in progress_bar(source.counts, desc=f"preparing {self.module}", unit="class", leave=True):
                for picture in source.pictures(name):
                    image = opened(picture)
                    facts["cut"] |= image.width != image.height
                    facts["resized"] |= image.size != (self.size, self.size)
                    images[done] = self.converted(image)
                    done += 1
            assert done == len(images), f"{source.told}: {done} images, and {len(images)} were counted"
            return facts

        kind = f"{self.size}-{self.resize.name}-{'grey' if self.grey else 'colour'}"
        return stored(f"{source.key}-{kind}", (sum(source.counts.values()), *self.input_shape), fill)


def opened(picture: Picture) -> Image.Image:
    """Open an image of a data set. EXIF data do not rotate it: published codes ignore them.

    Raises:
        Unreadable: the file cannot be read; names the file.
    """
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    if isinstance(picture, Path):
        return read(picture, _in_colour)
    with Image.open(io.BytesIO(picture)) as image:
        return _in_colour(image)


def _in_colour(image: Image.Image) -> Image.Image:
    return shown(image, upright=False)
