"""A user's own images: one folder for each class, with images of any size."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metarun.datasets import picture_check
from metarun.datasets.base import Dataset, Split, Tasks, cut
from metarun.datasets.class_folders import Classes, digest, find, fingerprint, parts
from metarun.datasets.imagefile import AS_SHOWN, SQUARE, Unreadable, centre_square, read
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import UserError, require, require_count
from metarun.files import cached_arrays, user_path
from metarun.progress import progress_bar


class Division(enum.Enum):
    """How meta-training, validation and test differ.

    With splits of images a task has all classes, and a class always has the same label.

    Attributes:
        shares: classes, drawn by ``shares`` and ``split_seed``.
        folders: classes, as in the folders train, val and test.
        images: images of the same classes, drawn by ``shares`` and ``split_seed``.
        images_in_folders: images of the same classes, as in the folders train, val and test.
    """

    shares = "shares"
    folders = "folders"
    images = "images"
    images_in_folders = "images_in_folders"

    @property
    def in_parts(self) -> bool:
        """Whether the splits are the user's folders train, val and test."""
        return self in (Division.folders, Division.images_in_folders)

    @property
    def of_images(self) -> bool:
        """Whether all splits have the same classes and differ by images."""
        return self in (Division.images, Division.images_in_folders)


Members = dict[Split, dict[str, list[int]]]  # split -> class name -> rows of its images


@dataclass(kw_only=True, slots=True)
class ImageFolder(Dataset):
    """Classes are the folders ``layers`` below ``path``; their images are the image files directly inside.

    An image is read as a viewer shows it (``imagefile.shown``), cut to its centre square and resized (Lanczos). Other
    files and hidden folders are ignored.

    Attributes:
        path: folder, relative to data_root, or absolute.
        size: pixels a side.
        grey: whether images become grey.
        split: how the splits differ.
        layers: how deep class folders are, 1..4.
        min_images: a class with fewer images is left out.
        white: pixel value of white in images deeper than 8 bits; null: as in the file.
        shares: shares of train, val and test.
        split_seed: seed of splits by shares.
        strict: whether unreadable images and empty classes are errors instead of warnings.
    """

    path: str
    size: int
    grey: bool
    split: Division
    layers: int
    min_images: int
    white: float | None
    shares: list[float]
    split_seed: int
    strict: bool

    def __post_init__(self) -> None:
        require_count("size", self.size, most=10**4)
        require(1 <= self.layers <= 4, "layers", self.layers, "1..4")
        require(self.min_images >= 0, "min_images", self.min_images, ">= 0")
        require(self.white is None or 0 < self.white < math.inf, "white", self.white, "null or > 0")
        whole = len(self.shares) == 3 and min(self.shares) >= 0 and math.isclose(sum(self.shares), 1, abs_tol=1e-6)
        require(whole, "shares", self.shares, "three numbers >= 0 whose sum is 1: train, val, test")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1 if self.grey else 3, self.size, self.size

    @property
    def fixed_labels(self) -> bool:
        return self.split.of_images

    def picture(self, path: Path) -> np.ndarray:
        return pixels(path, self.size, self.grey, self.white)

    def present(self, data_root: Path) -> Path | None:
        root = data_root / user_path(self.path)
        return root if root.exists() else None

    def problems(self, data_root: Path) -> Iterator[str]:
        root = data_root / user_path(self.path)
        classes = find(root, self.layers, self.split.in_parts)
        folders = [root / name for name in classes]
        yield from picture_check.problems(classes, folders, root, self.picture, copies=True)

    @property
    def reading(self) -> str:
        return f"{AS_SHOWN}; {SQUARE.format(self.size)} (Lanczos); {'grey' if self.grey else 'RGB'}"

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        root = data_root / user_path(self.path)
        classes = find(root, self.layers, self.split.in_parts)
        kind = f"{self.size}-{'grey' if self.grey else 'colour'}{'' if self.white is None else f'-{self.white:g}'}"
        cached = cached_arrays(
            f"image_folder-shown-{kind}-{fingerprint(root, classes)}",
            lambda: prepared(classes, self.size, self.grey, self.white),
        )
        unreadable = json.loads(str(cached["unreadable"]))
        rows: dict[str, list[int]] = {}  # folder -> rows of its images
        readable: dict[str, list[str]] = {}  # folder -> their file names
        for folder, paths in classes.items():
            readable[folder] = [path.name for path in paths if path.name not in unreadable.get(folder, ())]
            first = sum(len(members) for members in rows.values())
            rows[folder] = list(range(first, first + len(readable[folder])))
        if not any(rows.values()):
            raise UserError(f"dataset=image_folder: {root}: unreadable, every image: {_first(_files(unreadable))}")
        held, small = self._members(root, rows, readable)
        empty = [folder for folder, members in rows.items() if not members]
        self._tell(root, unreadable, empty, small)
        return self._pool(cached["images"], str(cached["sha256"]), held, small, device)

    def _members(
        self, root: Path, rows: dict[str, list[int]], files: dict[str, list[str]]
    ) -> tuple[Members, list[str]]:
        """The classes of each split, and the names of the classes with too few images."""
        top = {path.name: split for split, path in parts(root).items()} if self.split.in_parts else {}
        by_part: Members = {split: {} for split in Split}
        for folder, members in rows.items():
            part, _, name = folder.partition("/") if top else ("", "", folder)
            if members:
                by_part[top.get(part, Split.train)][name] = members
        least = max(1, self.min_images)
        small = sorted({name for held in by_part.values() for name, members in held.items() if len(members) < least})
        by_part = {split: {n: m for n, m in held.items() if n not in small} for split, held in by_part.items()}
        if not any(by_part.values()):
            raise UserError(f"dataset.min_images={self.min_images}: {root} has no class with so many images")
        if self.split.in_parts:
            self._require_fitting(by_part)
            return by_part, small
        whole = by_part[Split.train]
        shares = dict(zip(Split, self.shares, strict=True))
        if self.split is Division.shares:
            names = sorted(whole, key=lambda name: digest(f"{self.split_seed} {name}"))
            chosen = cut(range(len(names)), shares)
            return {split: {names[i]: whole[names[i]] for i in chosen[split]} for split in Split}, small
        for name, members in list(whole.items()):
            of_file = dict(zip(members, files[name], strict=True))
            order = sorted(members, key=lambda row: digest(f"{self.split_seed} {name}/{of_file[row]}"))
            for split, some in cut(order, shares).items():
                if shares[split]:
                    by_part[split][name] = some
                else:
                    by_part[split].pop(name, None)
        return by_part, small

    def _require_fitting(self, held: Members) -> None:
        """Raise ``UserError`` if the folders share classes but must not, or do not but must."""
        names = {split: set(classes) for split, classes in held.items() if classes}
        for split, other in ((Split.train, Split.val), (Split.train, Split.test), (Split.val, Split.test)):
            if split not in names or other not in names:
                continue
            common, alone = sorted(names[split] & names[other]), sorted(names[split] ^ names[other])
            if self.split is Division.folders and common:
                raise UserError(
                    f"dataset.split=folders: {len(common)} classes are in {split.name} and in {other.name} "
                    f"({_first(common)}); images_in_folders is for other images of the same classes"
                )
            if self.split is Division.images_in_folders and alone:
                raise UserError(
                    f"dataset.split=images_in_folders: {len(alone)} classes are in {split.name} or {other.name} alone "
                    f"({_first(alone)}); folders is for other classes"
                )

    def _pool(
        self, images: np.ndarray, sha256: str, held: Members, small: list[str], device: torch.device
    ) -> ClassPool:
        """Make the tasks; the classes of the splits stand one after another."""
        classes = [(name, members) for split in Split for name, members in held[split].items()]
        numbers = iter(range(len(classes)))
        splits = {split: [next(numbers) for _ in held[split]] for split in Split}
        order = np.array([row for _, members in classes for row in members], np.int64)
        sizes = [len(members) for _, members in classes]
        by = "by folders" if self.split.in_parts else f"split_seed {self.split_seed}"
        counts = "/".join(str(len(held[split])) for split in Split)
        what = f"own {counts}, {by}"
        if self.split.of_images:
            of_split = "/".join(str(sum(map(len, held[split].values()))) for split in Split)
            what = f"own images {of_split} of the same {len(held[Split.test])} classes, {by}, labels are the classes"
            sha256 = hashlib.sha256(f"{sha256} {order.tolist()}".encode()).hexdigest()[:16]
        stamp = {
            "split": what,
            "images": f"{sum(sizes)}, {min(sizes)} to {max(sizes)} a class"
            + (f", {len(small)} classes of fewer than {self.min_images} left out" if small else ""),
            "resize": f"centre square, lanczos {self.size}x{self.size}{', grey' if self.grey else ''}",
            "rotations": Rotations.none.name,
            "pool_sha256": sha256,
        }
        remedy = f"; {sum(map(len, held.values()))} classes are split {counts} "
        if self.split is Division.folders:
            remedy += "by their folders: lower way"
        else:
            shares = ",".join(f"{share:g}" for share in self.shares)
            remedy += f"by dataset.shares=[{shares}]: lower way, change the shares, or try dataset.split=images"
        return ClassPool(
            images[order],
            sizes,
            splits,
            Rotations.none,
            device,
            stamp,
            names=[name for name, _ in classes],
            fixed_labels=self.split.of_images,
            few_classes=remedy,
            few_images=", or leave out classes of fewer images with dataset.min_images={}",
        )

    def _tell(self, root: Path, unreadable: dict[str, dict[str, str]], empty: list[str], small: list[str]) -> None:
        """Warn of left-out files and classes. With ``strict`` raise ``UserError``, except for small classes."""
        left_out = {"unreadable image files": _files(unreadable), "classes without a readable image": empty}
        said = "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in left_out.items() if names)
        if said and self.strict:
            raise UserError(
                f"dataset.strict=True: {root} has {said}; repair or remove them, or let strict=false skip them"
            )
        if small:
            under = f"{len(small)} classes of fewer than dataset.min_images={self.min_images}: {_first(small)}"
            said = f"{said}; {under}" if said else under
        if said:
            warnings.warn(f"dataset=image_folder: {root}: left out {said}", stacklevel=3)


def _files(of_classes: dict[str, dict[str, str]]) -> list[str]:
    return [f"{name}/{file} ({why})" for name, files in of_classes.items() for file, why in files.items()]


def _first(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def prepared(classes: Classes, size: int, grey: bool, white: float | None) -> dict[str, np.ndarray]:
    """Read and resize all images.

    Args:
        classes: folder -> image files.
        size: pixels a side.
        grey: whether images become grey.
        white: see ``imagefile.shown``.

    Returns:
        images: uint8 [images, 3 or 1, size, size], class by class; unreadable: JSON of class -> {file name: reason};
        sha256: checksum of the images.
    """
    files = [(name, path) for name, paths in classes.items() for path in paths]
    images = np.empty((len(files), 1 if grey else 3, size, size), np.uint8)
    unreadable: dict[str, dict[str, str]] = {}
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of irregular files that it can read
        for name, path in progress_bar(files, desc="preparing image_folder", unit="image", leave=True):
            try:
                images[done] = pixels(path, size, grey, white)
            except Unreadable as error:
                unreadable.setdefault(name, {})[path.name] = error.reason
                continue
            done += 1
    images = images[:done]
    digest = hashlib.sha256(images.data).hexdigest()[:16]
    return {"images": images, "unreadable": np.array(json.dumps(unreadable)), "sha256": np.array(digest)}


def pixels(path: Path, size: int, grey: bool, white: float | None) -> np.ndarray:
    """Read one image file, uint8 [3 or 1, size, size]; arguments as for ``prepared``."""
    square = np.asarray(read(path, lambda image: centre_square(image, size, white)).convert("L" if grey else "RGB"))
    return square[None] if grey else square.transpose(2, 0, 1)
