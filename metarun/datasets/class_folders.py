"""Find class folders in a user's folder: one or more layers deep, with or without folders for train, val and test."""

from __future__ import annotations

import hashlib
from pathlib import Path

from metarun.datasets.base import Split
from metarun.datasets.imagefile import image_files
from metarun.errors import UserError

# Pillow does not read HEIC; it is listed so that such files are reported instead of ignored
KINDS = "jpg jpeg jpe jfif png apng gif bmp dib tif tiff webp avif ppm pgm pbm pnm pfm jp2 j2k jpx tga pcx qoi sgi heic"
SUFFIXES = tuple(f".{kind}" for kind in KINDS.split())
PARTS = {Split.train: ("train", "training"), Split.val: ("val", "valid", "validation"), Split.test: ("test", "testing")}

Classes = dict[str, list[Path]]  # folder, from the root, -> its image files


def digest(text: str) -> str:
    """SHA-256 of a text, which may contain file names that are not valid Unicode."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def find(root: Path, layers: int, in_parts: bool) -> Classes:
    """Find class folders and the image files directly inside, sorted.

    Args:
        root: the user's folder.
        layers: how deep class folders are below ``root``, or below its folders for train, val and test.
        in_parts: whether ``root`` has folders for train, val and test.

    Raises:
        UserError: there is no folder, or no image in a class folder.
    """
    if not root.is_dir():
        raise UserError(
            f"dataset=image_folder: there is no folder {root}; put a folder of images for each class there, or name "
            "another with dataset.path (relative to data_root, or absolute)"
        )
    pattern = "/".join(["[!.]*"] * layers)
    tops = list(parts(root).values()) if in_parts else [root]
    folders = sorted(path for top in tops for path in top.glob(pattern) if path.is_dir())
    classes = {path.relative_to(root).as_posix(): image_files(path, SUFFIXES) for path in folders}
    if not any(classes.values()):
        raise UserError(
            f"dataset=image_folder: no class in {root}{_elsewhere(root, layers)}; it needs a folder for each class "
            f"with images directly inside ({', '.join(SUFFIXES)}), and has {len(classes)} folders without"
        )
    return classes


def parts(root: Path) -> dict[Split, Path]:
    """Find the folders for train, val and test, under any of their usual names."""
    named = {path.name.lower(): path for path in sorted(root.glob("[!.]*")) if path.is_dir()}
    return {split: named[name] for split, names in PARTS.items() for name in names if name in named}


def _elsewhere(root: Path, layers: int) -> str:
    """Hint, for the message, at a setting that would find images."""
    for deeper in range(1, 5):
        folders = [path for path in root.glob("/".join(["[!.]*"] * deeper)) if path.is_dir()]
        if deeper != layers and any(image_files(path, SUFFIXES) for path in folders):
            if deeper > 1 and parts(root):
                below = f" dataset.layers={deeper - 1}" if deeper - 1 != layers else ""
                names = ", ".join(path.name for path in parts(root).values())
                return (
                    f" (images lie in its {names}: dataset.split=folders{below}, or images_in_folders where "
                    "all have the same classes)"
                )
            return f" (images lie in its folders of layer {deeper}: dataset.layers={deeper})"
    return ""


def fingerprint(root: Path, classes: Classes) -> str:
    """Cache key of the folder: names, sizes and modification times."""
    facts = list(classes)
    for path in (path for paths in classes.values() for path in paths):
        status = path.stat()
        facts.append(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}")
    return digest("\n".join(facts))[:16]
