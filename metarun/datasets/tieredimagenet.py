"""tiered-ImageNet: Ren et al. 2018, 608 ImageNet classes in 34 categories, no category in two splits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from metarun.datasets.about import About, File
from metarun.datasets.base import Split
from metarun.datasets.listed import ListedImages, Source
from metarun.datasets.listed_sources import in_folders
from metarun.datasets.split_file import Listed
from metarun.datasets.unpickle import arrays
from metarun.errors import UserError
from metarun.out_of_memory import require_room

PUBLISHED = "tieredimagenet"  # the split
IMAGES, LABELS = "{}_images_png.pkl", "{}_labels.pkl"  # of each split

ABOUT = About(
    title="photographs, ImageNet",
    citation="Ren et al. 2018, Meta-learning for semi-supervised few-shot classification",
    classes=608,
    images=779_165,
    splits="351/97/160 classes of 20/6/8 categories",
    licence="ImageNet's terms",
    size=None,
    files=(File(name="tieredimagenet/tiered-imagenet.tar", md5="e07e811b9f29362d159a9edd0d838c62"),),
    by_hand="ImageNet's terms allow no download here: register at image-net.org, then unpack the tiered-imagenet.tar "
    "that github.com/renmengye/few-shot-ssl-public links in {data_root}/tieredimagenet "
    "(train_images_png.pkl, train_labels.pkl and so on), or put a folder for each class (n01530575, ...) into "
    "{data_root}/tieredimagenet/train, val and test.",
    downloads=False,
    places=(
        *("tieredimagenet", "tiered-imagenet", "tiered_imagenet", "tieredImageNet"),
        "tieredimagenet/tiered-imagenet",
    ),
)


@dataclass(kw_only=True, slots=True)
class TieredImageNet(ListedImages):
    """Colour photographs; the classes differ in size."""

    about: ClassVar[About | None] = ABOUT
    complete: ClassVar[int | None] = ABOUT.images

    def find(self, data_root: Path, listed: Listed) -> Source:
        folders = [data_root / name for name in ABOUT.places]
        for folder in folders:
            if any((folder / IMAGES.format(split.name)).exists() for split in Split):
                return _in_pickles(folder, listed, as_in_files=self.split == PUBLISHED)
        if source := in_folders(folders, listed, "tieredimagenet"):
            return source
        raise self.nowhere(data_root)


def _in_pickles(folder: Path, listed: Listed, as_in_files: bool) -> Source:
    """Read Ren's pickles: encoded PNG images, and labels with the names of the classes, of each split.

    Copies may call classes by words in place of WordNet's numbers. Then, if ``as_in_files``, their split is taken.
    """
    labels: dict[str, tuple[Split, np.ndarray]] = {}  # class name -> its split, and its images there
    named: Listed = {}
    digest = hashlib.sha256(str(listed).encode())
    for split in Split:
        path = folder / LABELS.format(split.name)
        numbers, names = _labels(path)
        named[split] = names
        digest.update(numbers.tobytes() + str((split, names)).encode(errors="replace"))
        for c, name in enumerate(names):
            if name in labels:
                raise UserError(f"{path}: class {name} is in two splits")
            labels[name] = split, np.flatnonzero(numbers == c)
        images = folder / IMAGES.format(split.name)
        if not images.is_file():
            raise UserError(f"{folder}: {images.name} missing beside the other files")
        digest.update(str(images.stat().st_size).encode())

    @lru_cache(maxsize=1)  # classes come split by split
    def encoded(split: Split) -> Any:
        path = folder / IMAGES.format(split.name)
        require_room(path.stat().st_size, torch.device("cpu"), f"{path}: reading it", "copy, such as class folders,")
        try:
            content = arrays(path)
            if len(content) != sum(len(rows) for of, rows in labels.values() if of is split):
                raise ValueError(f"{len(content)} images, and other labels")
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise UserError(f"{path}: unreadable ({type(error).__name__}: {error})") from None
        return content

    def pictures(name: str) -> list[bytes]:
        split, rows = labels[name]
        return [np.asarray(encoded(split)[i], np.uint8).tobytes() for i in rows]

    wanted = [name for of_split in listed.values() for name in of_split]
    by_words = as_in_files and not any(name in labels for name in wanted)
    if by_words:
        wanted = [*labels]
    counts = {name: len(labels[name][1]) for name in wanted if name in labels}  # in this order, splits are not copied
    key = f"tieredimagenet-{digest.hexdigest()[:16]}"
    return Source(IMAGES.format("*"), key, counts, pictures, named if by_words else None)


def _labels(path: Path) -> tuple[np.ndarray, list[str]]:
    """The class number of each image, and the names of the classes."""
    try:
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in arrays(path).items()}
        numbers, names = np.asarray(content["label_specific"]), [str(name) for name in content["label_specific_str"]]
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not 0 <= numbers.min() <= numbers.max() < len(names):
            raise ValueError("its labels are not the numbers of its classes")
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path}: unreadable ({type(error).__name__}: {error})") from None
    return numbers, names
