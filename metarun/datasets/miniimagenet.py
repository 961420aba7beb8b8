"""mini-ImageNet: Vinyals et al. 2016, 100 ImageNet classes of 600 images, in the split of Ravi and Larochelle 2017."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from metarun.datasets import picture_check
from metarun.datasets.about import About, File
from metarun.datasets.base import Dataset, Split, Tasks
from metarun.datasets.imagefile import Filter, image_files, read, shown
from metarun.datasets.inspection import checksum
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.datasets.unpickle import images_by_class
from metarun.errors import UserError, require_count
from metarun.files import cached_arrays
from metarun.out_of_memory import require_room
from metarun.progress import progress_bar

FOLDERS = ("miniimagenet", "mini-imagenet", "miniImagenet")  # under data_root
COMPLETE, IMAGES = "ravi 64/16/20", 600
SUFFIXES = (".jpg", ".jpeg", ".png")

NAMED, NUMBERED = "mini-imagenet-cache-*.pkl", "miniImageNet_category_split_*.pickle"  # two kinds of pickles
# MD5 sums that PaddleFSL (paddlefsl/vision/datasets/mini_imagenet.py) checks; it takes the files from the
# mini-imagenet.tar.gz whose MD5 torchmeta (torchmeta/datasets/miniimagenet.py) states as well.
PUBLISHED_MD5 = {
    "mini-imagenet-cache-train.pkl": "069993a77e65a83bbf8f8de4c9dcca68",
    "mini-imagenet-cache-val.pkl": "f87ddf9b5211920dd73520274371eb6a",
    "mini-imagenet-cache-test.pkl": "12158d649fd08945294de4ad38cda81d",
}

ABOUT = About(
    title="photographs, ImageNet",
    citation="Vinyals et al. 2016, Matching networks; split of Ravi and Larochelle 2017",
    classes=100,
    images=100 * IMAGES,
    splits="64/16/20 classes",
    licence="ImageNet's terms",
    size=None,
    files=tuple(File(name=f"{folder}/{name}", md5=md5) for folder in FOLDERS for name, md5 in PUBLISHED_MD5.items()),
    by_hand="ImageNet's terms allow no download here: register at image-net.org, then put the files of its training "
    "set that github.com/openai/supervised-reptile lists (metadata/miniimagenet) into "
    "{data_root}/miniimagenet/train/n01532829 and so on; or, of a copy numbered as in the CSVs of "
    "github.com/twitter-research/meta-learning-lstm (data/miniImagenet), the images into "
    "{data_root}/miniimagenet/images and the CSVs beside that folder.",
    downloads=False,
    places=FOLDERS,
)

Files = dict[str, list[Path]]  # class name -> its images
Arrays = dict[str, list[np.ndarray]]  # the same, uint8 [H, W, 3] each


@dataclass(kw_only=True, slots=True)
class MiniImageNet(Dataset):
    """Colour images of ``size`` pixels a side, made by the filter ``resize``."""

    about: ClassVar[About | None] = ABOUT
    size: int
    resize: Filter

    def __post_init__(self) -> None:
        require_count("size", self.size, most=10**4)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 3, self.size, self.size

    def picture(self, path: Path) -> np.ndarray:
        return np.asarray(self.resize.apply(read(path, _in_colour), self.size)).transpose(2, 0, 1)

    def problems(self, data_root: Path) -> Iterator[str]:
        held = {split: files for split, files in find(data_root).files.items() if not isinstance(files, Path)}
        classes = {f"{split.name}/{name}": paths for split, files in held.items() for name, paths in files.items()}
        folders = {path.parent for paths in classes.values() for path in paths}
        yield from picture_check.problems(classes, folders, data_root, self.picture, each=IMAGES)

    @property
    def reading(self) -> str:
        return (
            f"RGB, not rotated by EXIF data; the whole picture resized to {self.size}x{self.size} ({self.resize.name})"
        )

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        source = find(data_root)
        name = f"miniimagenet-named-{self.size}-{self.resize.name}-{source.fingerprint()}"
        cached = cached_arrays(name, lambda: prepared(source, self.size, self.resize))
        stamp = json.loads(str(cached["stamp"]))
        if stamp["split"] != COMPLETE:
            warnings.warn(
                f"dataset=miniimagenet: not the complete mini-ImageNet ({COMPLETE}, {IMAGES} images a class) "
                f"but {stamp['split']}",
                stacklevel=2,
            )
        splits, first = {}, 0
        for split, count in zip(Split, cached["counts"].tolist(), strict=True):
            splits[split] = list(range(first, first + count))
            first += count
        images = cached["images"]
        flat, counts = images.reshape(-1, *images.shape[2:]), [images.shape[1]] * len(images)
        return ClassPool(flat, counts, splits, Rotations.none, device, stamp, names=json.loads(str(cached["names"])))


def published_split() -> dict[Split, list[str]]:
    """Return the WordNet ids of each split's classes."""
    listed = json.loads(resources.files("metarun.datasets").joinpath("splits/miniimagenet.json").read_text())
    return {split: listed[split.name] for split in Split}


@dataclass(frozen=True, slots=True)
class Source:
    """One copy of the data: its layout, and for each split its image files or its pickle."""

    layout: str
    files: Mapping[Split, Files | Path]  # a Path is a pickle

    def fingerprint(self) -> str:
        """Cache key of this copy: names and sizes of its files, and some bytes of pickles."""
        facts = [self.layout]
        for split, held in self.files.items():
            if isinstance(held, Path):
                size = held.stat().st_size
                with open(held, "rb") as file:
                    file.seek(size // 2)  # pickles with different pixels have the same size, so some pixels are read
                    facts.append(f"{split.name} {size} {hashlib.sha256(file.read(1 << 16)).hexdigest()}")
            else:
                named = ((name, path) for name, paths in held.items() for path in paths)
                facts += [f"{split.name} {name} {path.name} {path.stat().st_size}" for name, path in named]
        return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()[:16]


def find(data_root: Path) -> Source:
    """Find the first layout that exists. Raises ``UserError`` if there is none, or if a part of one is missing."""
    for folder in (data_root / name for name in FOLDERS):
        for layout in (_by_csv, _folders_by_split, _folders, _pickles):
            if folder.is_dir() and (source := layout(folder)):
                return source
    raise UserError(
        f"dataset=miniimagenet: found no copy in {data_root} (folders tried: {', '.join(FOLDERS)}). Looked there for "
        "images/*.jpg with train.csv, val.csv and test.csv; train/, val/ and test/ with a folder for each class; "
        "a folder for each class (n01532829, ...); mini-imagenet-cache-{train,val,test}.pkl; "
        f"miniImageNet_category_split_{{train_phase_train,val,test}}.pickle. {ABOUT.by_hand_in(data_root)} "
        "dataset=glyphs needs nothing."
    )


def prepared(source: Source, size: int, resize: Filter) -> dict[str, np.ndarray]:
    """Read and resize all images.

    Returns:
        images: uint8 [classes, images of a class, 3, size, size], train then val then test; counts: [3] classes of each
        split; stamp and names: JSON.
    """
    classes = {split: images_by_class(held) if isinstance(held, Path) else held for split, held in source.files.items()}
    every = [named for split in Split for named in classes[split].items()]
    instances = _instances(every)
    require_room(len(every) * instances * 3 * size**2, torch.device("cpu"), f"dataset.size={size}: the images", "size")
    images = np.empty((len(every), instances, 3, size, size), np.uint8)
    resized = False
    for c, (_, members) in enumerate(progress_bar(every, desc="preparing mini-imagenet", unit="class", leave=True)):
        for i, member in enumerate(members):
            image = read(member, _in_colour) if isinstance(member, Path) else Image.fromarray(member)
            resized |= image.size != (size, size)
            image = resize.apply(image, size)
            images[c, i] = np.asarray(image).transpose(2, 0, 1)
    listed = published_split()
    ravi = source.layout == NUMBERED or all(set(classes[split]) <= set(listed[split]) for split in Split)
    counts = [len(classes[split]) for split in Split]
    split_name = f"{'ravi' if ravi else 'own'} {'/'.join(map(str, counts))}"
    if (split_name, instances) != (COMPLETE, IMAGES):
        split_name += f", {instances} images a class"
    pickles = [held for held in source.files.values() if isinstance(held, Path)]
    published = pickles and all(checksum(path, "md5") == PUBLISHED_MD5.get(path.name) for path in pickles)
    stamp = {
        "split": split_name,
        "source": f"{source.layout}{', published MD5' if published else ''}",
        "resize": f"{resize.name} {size}x{size}" if resized else f"none, stored at {size}x{size}",
        "rotations": Rotations.none.name,
        "pool_sha256": hashlib.sha256(images.data).hexdigest()[:16],
    }
    texts = {"stamp": stamp, "names": [name for name, _ in every]}
    return {"images": images, "counts": np.array(counts)} | {k: np.array(json.dumps(v)) for k, v in texts.items()}


def _in_colour(image: Image.Image) -> Image.Image:
    """Convert as ``shown`` does, but without rotation by EXIF data, which the published codes ignore."""
    return shown(image, upright=False)


def _instances(every: list[tuple[str, Any]]) -> int:
    """Number of images in each class. Raises ``UserError`` if it differs or is 0, or a class is in two splits."""
    times = Counter(name for name, _ in every)
    sizes = Counter(len(members) for _, members in every)
    usual = max(sizes, key=sizes.__getitem__, default=0)
    for name, members in every:
        if times[name] > 1:
            raise UserError(f"dataset=miniimagenet: class {name} is in {times[name]} splits")
        if len(members) != usual:
            raise UserError(
                f"dataset=miniimagenet: class {name} has {len(members)} images where others have {usual}; all classes "
                f"need equally many ({IMAGES} in the complete data)"
            )
    if not usual:
        raise UserError("dataset=miniimagenet: the classes found hold no images")
    return usual


def _by_csv(folder: Path) -> Source | None:
    """Images listed in CSVs of filename and label: all in ``images`` (Ravi and Larochelle), or in class folders."""
    classes: dict[Split, Files] = {}
    missing = []
    for split, path in _one_for_each_split(folder, "*.csv").items():
        named: dict[str, set[Path]] = {}
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"filename", "label"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path}: the first line must be filename,label")
            for row in reader:
                filename, label = row["filename"] or "", row["label"] or ""
                places = (folder / "images", folder / "images" / label, folder / label)
                found = next((place / filename for place in places if (place / filename).is_file()), None)
                if found:
                    named.setdefault(label, set()).add(found)
                else:
                    missing.append(f"{path}: line {reader.line_num} names {filename}, which is not in {places[0]}")
        classes[split] = {label: sorted(files) for label, files in sorted(named.items())}
    if not any(classes.values()):  # CSVs beside another layout, as after MAML's script
        return None
    if missing:
        raise UserError(missing[0])
    return Source("images by CSV", classes)


def _folders_by_split(folder: Path) -> Source | None:
    """Images in SPLIT/CLASS/IMAGE, as made by the scripts of MAML and Reptile."""
    parts = _one_for_each_split(folder, "*")
    classes = {
        split: {path.name: image_files(path, SUFFIXES) for path in sorted(part.glob("[!.]*")) if path.is_dir()}
        for split, part in parts.items()
    }
    return Source("folders by split", classes) if any(classes.values()) else None


def _folders(folder: Path) -> Source | None:
    """Images in CLASS/IMAGE, with classes from the published list."""
    for base in (folder, folder / "images"):
        classes = {
            split: {name: image_files(base / name, SUFFIXES) for name in names if (base / name).is_dir()}
            for split, names in published_split().items()
        }
        if any(classes.values()):
            if (folder / "train.csv").exists():
                raise UserError(f"{folder}: the CSVs name no image of its class folders; correct or remove them")
            return Source("class folders", classes)
    return None


def _pickles(folder: Path) -> Source | None:
    for pattern, train in ((NAMED, "train"), (NUMBERED, "train_phase_train")):
        if files := _one_for_each_split(folder, pattern, train):
            return Source(pattern, files)
    return None


def _one_for_each_split(folder: Path, pattern: str, train: str = "train") -> dict[Split, Path]:
    """The path of each split, or an empty dict. Raises ``UserError`` if only some exist."""
    names = {Split.train: train, Split.val: "val", Split.test: "test"}
    paths = {split: folder / pattern.replace("*", name) for split, name in names.items()}
    missing = [path.name for path in paths.values() if not path.exists()]
    if missing and len(missing) < len(paths):
        raise UserError(f"{folder}: {' and '.join(missing)} missing beside the other splits'")
    return {} if missing else paths
