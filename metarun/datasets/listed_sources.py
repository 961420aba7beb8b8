"""Copies of image data in which a class has its name: a folder for each class, or arrays in one NPZ file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from metarun.datasets.class_folders import SUFFIXES, fingerprint, parts
from metarun.datasets.imagefile import image_files
from metarun.datasets.listed import Source
from metarun.datasets.split_file import Listed
from metarun.errors import UserError, first_line


def in_folders(roots: Iterable[Path], listed: Listed, key: str) -> Source | None:
    """Find a folder of image files for each class, in the first of some folders that has any.

    The class folders lie directly in it, or in its folders ``images``, ``data``, ``train``, ``val`` or ``test``.

    Args:
        roots: folders to look in.
        listed: class names of each split.
        key: begins the name in the cache.

    Raises:
        UserError: a folder has some of the classes and not all.
    """
    names = [name for of_split in listed.values() for name in of_split]
    for root in (root for root in roots if root.is_dir()):
        places = (root, root / "images", root / "data", *parts(root).values())
        found = {name: [place / name for place in places if (place / name).is_dir()] for name in names}
        missing = [name for name in names if not found[name]]
        if len(missing) == len(names):
            continue
        if missing:
            raise UserError(f"{root}: has no folder {missing[0]}, as of {len(missing)} of the {len(names)} classes")
        files = {name: image_files(folders[0], SUFFIXES) for name, folders in found.items()}
        counts = {name: len(paths) for name, paths in files.items()}
        return Source("class folders", f"{key}-{fingerprint(root, files)}", counts, files.__getitem__)
    return None


def in_npz(path: Path, key: str) -> Source:
    """Open an NPZ file of ``images``, uint8 [classes, images of each, H, W] or [..., H, W, 3], and ``names`` [classes].

    Args:
        path: the file.
        key: begins the name in the cache.

    Raises:
        UserError: it is damaged, or holds something else.
    """
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            images, names = file["images"], [str(name) for name in file["names"].tolist()]
        if images.dtype != np.uint8 or images.ndim not in (4, 5) or images.shape[4:] not in ((), (3,)):
            raise ValueError(f"images are {images.dtype} {[*images.shape]}")
        if len(names) != len(images) or len(set(names)) != len(names):
            raise ValueError(f"names are {len(set(names))} different ones for {len(images)} classes")
    except Exception as error:  # zip, zlib and numpy raise many kinds of error for a file that is not as it was written
        raise UserError(
            f"{path}: is not NPZ with images, uint8 [classes, images, H, W] or [classes, images, H, W, 3], and names "
            f"[classes] ({first_line(error)})"
        ) from None
    of_class = dict(zip(names, images, strict=True))
    sha256 = hashlib.sha256(images.tobytes()).hexdigest()[:16]
    counts = {name: len(some) for name, some in of_class.items()}
    return Source(f"arrays, sha256 {sha256}", f"{key}-{sha256}", counts, of_class.__getitem__)
