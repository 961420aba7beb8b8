"""Images of one's own: a folder for each class, images of any size in it."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from metarun.datasets.base import Dataset, Split, Tasks, cut
from metarun.datasets.imagefile import image_files, read
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import UserError, require, require_count
from metarun.files import cached_arrays, user_path
from metarun.progress import progress_bar
from metarun.room import require_room

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")

Classes = dict[str, list[Path]]  # class name -> its image files


@dataclass(kw_only=True, slots=True)
class ImageFolder(Dataset):
    """Classes are the folders in ``path``, in each of which the image files directly inside count.

    An image is turned upright as its EXIF data say, laid on white where it is transparent, cut to its centre square
    and resized (Lanczos); of an animation the first frame is taken. Other files and hidden folders are passed over.
    Which split a class is in follows from the names of all classes and ``split_seed``.
    """

    path: str
    size: int  # pixels a side
    grey: bool
    shares: list[float]  # of the classes: train, val, test
    split_seed: int
    strict: bool

    def __post_init__(self) -> None:
        require_count("size", self.size, most=10**4)
        whole = len(self.shares) == 3 and min(self.shares) >= 0 and math.isclose(sum(self.shares), 1, abs_tol=1e-6)
        require(whole, "shares", self.shares, "three numbers >= 0 whose sum is 1: train, val, test")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1 if self.grey else 3, self.size, self.size

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        root = data_root / user_path(self.path)
        classes = find(root)
        colours = "grey" if self.grey else "colour"
        cached = cached_arrays(
            f"image_folder-{self.size}-{colours}-{fingerprint(root, classes)}",
            lambda: prepared(classes, self.size, self.grey),
        )
        unreadable = json.loads(str(cached["unreadable"]))
        counts = {name: len(paths) - len(unreadable.get(name, ())) for name, paths in classes.items()}
        names = [name for name, count in counts.items() if count]
        if not names:
            raise UserError(f"dataset=image_folder: {root}: unreadable, every image: {_first(_files(unreadable))}")
        self._tell(root, unreadable, [name for name in classes if name not in names])
        sizes = [counts[name] for name in names]
        order = sorted(range(len(names)), key=lambda i: _digest(f"{self.split_seed} {names[i]}"))
        splits = cut(order, dict(zip(Split, self.shares, strict=True)))
        stamp = {
            "split": f"own {'/'.join(str(len(splits[split])) for split in Split)}, split_seed {self.split_seed}",
            "images": f"{sum(sizes)}, {min(sizes)} to {max(sizes)} a class",
            "resize": f"centre square, lanczos {self.size}x{self.size}{', grey' if self.grey else ''}",
            "rotations": Rotations.none.name,
            "pool_sha256": str(cached["sha256"]),
        }
        return ClassPool(cached["images"], sizes, splits, Rotations.none, device, stamp, names=names)

    def _tell(self, root: Path, unreadable: dict[str, list[str]], empty: list[str]) -> None:
        """Warn of what is left out, or with ``strict`` raise ``UserError``."""
        left_out = {"unreadable image files": _files(unreadable), "classes without a readable image": empty}
        said = "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in left_out.items() if names)
        if said and self.strict:
            raise UserError(
                f"dataset.strict=True: {root} has {said}; repair or remove them, or let strict=false skip them"
            )
        if said:
            warnings.warn(f"dataset=image_folder: {root}: left out {said}", stacklevel=3)


def _files(of_classes: dict[str, list[str]]) -> list[str]:
    return [f"{name}/{file}" for name, files in of_classes.items() for file in files]


def _first(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _digest(text: str) -> str:
    """Of names too that are no valid text, which file systems allow."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def find(root: Path) -> Classes:
    """The folders of classes and their image files, sorted. Raises ``UserError`` where there are none."""
    if not root.is_dir():
        raise UserError(
            f"dataset=image_folder: there is no folder {root}; put a folder of images for each class there, or name "
            "another with dataset.path (relative to data_root, or absolute)"
        )
    classes = {path.name: image_files(path, SUFFIXES) for path in sorted(root.glob("[!.]*")) if path.is_dir()}
    if not any(classes.values()):
        raise UserError(
            f"dataset=image_folder: no class in {root}; it needs a folder for each class with images directly inside "
            f"({', '.join(SUFFIXES)}), and has {len(classes)} folders without"
        )
    return classes


def fingerprint(root: Path, classes: Classes) -> str:
    """By which to know the files again without reading them: names, sizes and times of change."""
    facts = list(classes)
    for path in (path for paths in classes.values() for path in paths):
        status = path.stat()
        facts.append(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}")
    return _digest("\n".join(facts))[:16]


def prepared(classes: Classes, size: int, grey: bool) -> dict[str, np.ndarray]:
    """images uint8 [images, 3 or 1, size, size], class by class; unreadable: class -> file names, as JSON; sha256."""
    files = [(name, path) for name, paths in classes.items() for path in paths]
    require_room(
        len(files) * (1 if grey else 3) * size**2, torch.device("cpu"), f"dataset.size={size}: the images", "size"
    )
    images = np.empty((len(files), 1 if grey else 3, size, size), np.uint8)
    unreadable: dict[str, list[str]] = {}
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of oddities in files that it reads all the same
        for name, path in progress_bar(files, desc="preparing image_folder", unit="image", leave=True):
            try:
                square = read(path, lambda image: centre_square(image, size))
            except UserError:
                unreadable.setdefault(name, []).append(path.name)
                continue
            pixels = np.asarray(square.convert("L" if grey else "RGB"))
            images[done] = pixels if grey else pixels.transpose(2, 0, 1)
            done += 1
    images = images[:done]
    digest = hashlib.sha256(images.data).hexdigest()[:16]
    return {"images": images, "unreadable": np.array(json.dumps(unreadable)), "sha256": np.array(digest)}


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """Upright, in 8-bit colour, on white, cut to its centre square and resized. Raises ``ValueError`` for pixels that
    are real numbers, or integers beyond 16 bits, of which no file says what is white."""
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() >= 2**16:
            raise ValueError("its pixels are not of 8 or 16 bits")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    side = min(image.size)
    left, top = ((whole - side) // 2 for whole in image.size)
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS)
