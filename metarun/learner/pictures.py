"""Picture files to predict: find them, with the class that their folder states, and read them as the run does."""

from __future__ import annotations

import glob
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarun.datasets.base import Dataset
from metarun.datasets.class_folders import SUFFIXES
from metarun.datasets.imagefile import Unreadable
from metarun.errors import UserError
from metarun.learner.inputs import digest
from metarun.progress import progress_bar


@dataclass(frozen=True)
class Picture:
    """A picture file.

    Attributes:
        path: the file.
        truth: the class that it lies in a folder of; None: it lies in none.
        pixels: uint8 [C, H, W]; None: it is unreadable.
        reason: why it is unreadable; empty where it is not.
        of_support: whether it is a picture of the support set, whose prediction is no test.
    """

    path: Path
    truth: str | None
    pixels: np.ndarray | None
    reason: str
    of_support: bool


def find(places: Collection[str], classes: Collection[str], own: Collection[Path] = ()) -> dict[Path, str | None]:
    """Find picture files, sorted in each folder.

    Args:
        places: folders, which are searched with all folders in them except hidden ones; files; or patterns such as
            ``photos/*.jpg``.
        classes: names of classes. In a folder that is searched, a folder of such a name states the class of what is
            in it, the innermost one where there are several.
        own: files to leave out, which an earlier prediction may have written.

    Returns:
        File -> its class, or None.

    Raises:
        UserError: a place does not exist, or there is no picture at all.
    """
    found: dict[Path, str | None] = {}
    left_out = {path.resolve() for path in own}
    for place in places:
        given = Path(place).expanduser()
        matching = [given] if given.exists() else [Path(path) for path in sorted(glob.glob(str(given)))]
        if not matching:
            raise UserError(f"images={place}: there is no such file or folder")
        for path in matching:
            for file in _inside(path) if path.is_dir() else [path]:
                above = file.relative_to(path).parts[:-1] if path.is_dir() else ()
                if file.resolve() in left_out:
                    continue
                found.setdefault(file, next((name for name in reversed(above) if name in classes), None))
    if not found:
        raise UserError(f"images={', '.join(places)}: has no picture ({', '.join(SUFFIXES)})")
    return found


def _inside(folder: Path) -> list[Path]:
    """All picture files below a folder, without hidden files and what is in hidden folders."""

    def shows(path: Path) -> bool:
        return not any(name.startswith(".") for name in path.relative_to(folder).parts)

    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and shows(p) and p.is_file())


def read(found: dict[Path, str | None], dataset: Dataset, support: Collection[str]) -> list[Picture]:
    """Read picture files.

    Args:
        found: from ``find``.
        dataset: the run's data set, which says how.
        support: SHA-256 of the support set's files.
    """
    pictures = []
    for path, truth in progress_bar(found.items(), desc="reading pictures", unit="picture"):
        try:
            pictures.append(Picture(path, truth, dataset.picture(path), "", digest(path) in support))
        except Unreadable as error:
            pictures.append(Picture(path, truth, None, error.reason, False))
    return pictures
