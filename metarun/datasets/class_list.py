"""Images by class with a list of the classes of each split: what a data set needs that has no reader of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metarun.datasets.listed import ListedImages, Source
from metarun.datasets.listed_sources import in_folders, in_npz
from metarun.datasets.split_file import Listed
from metarun.errors import UserError
from metarun.files import user_path


@dataclass(kw_only=True, slots=True)
class ClassList(ListedImages):
    """Images by class.

    Attributes:
        path: a folder that has a folder for each class, also in ``images`` or in ``train``, ``val`` and ``test``; or an
            NPZ file of ``images`` and ``names``. Relative to data_root, or absolute.
    """

    path: str

    def find(self, data_root: Path, listed: Listed) -> Source:
        place = data_root / user_path(self.path)
        if place.is_file():
            return in_npz(place, "class_list")
        if source := in_folders([place], listed, "class_list"):
            return source
        some = next(name for of_split in listed.values() for name in of_split)
        raise UserError(
            f"dataset.path={place}: is neither an NPZ file nor a folder with a folder for each class that "
            f"dataset.split={self.split} lists, such as {some}"
        )
