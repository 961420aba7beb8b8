"""Which data sets there are, and which of them are here; get those that can be downloaded."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from metarun.datasets.about import About
from metarun.datasets.acting import ActingDataset
from metarun.datasets.base import Dataset
from metarun.datasets.inspection import wrong_files
from metarun.errors import UserError

LEAST, MOST = 78, 100  # columns of the table
NAME, NUMBERS = 17, (7, 7, 7, 4)  # columns of a name; and of classes, images, size, here


class Kind(NamedTuple):
    """An option of ``dataset``.

    Attributes:
        made: its class.
        words: what its YAML file says it is.
    """

    made: type[Dataset]
    words: str

    @property
    def title(self) -> str:
        """Under which title it is listed."""
        if self.made.about:
            return "published"
        if self.is_own:
            return "your own"
        return "simulated" if issubclass(self.made, ActingDataset) else "generated"

    @property
    def is_own(self) -> bool:
        """Whether it reads a user's own files."""
        return any(field.name == "path" for field in fields(self.made))


NEEDS = {
    "published": "",
    "your own": ": dataset.path names the file or folder",
    "generated": ": needs nothing",
    "simulated": ": no data; policies act in an environment",
}


def table(kinds: Mapping[str, Kind], data_root: Path, width: int) -> str:
    """List data sets: what each is, how large, under which licence, and whether it is in ``data_root``.

    Args:
        kinds: option -> what it is.
        data_root: folder where data sets are looked for.
        width: columns of the terminal.
    """
    width = min(max(width, LEAST), MOST)
    lines = [*textwrap.wrap(f"data_root is {data_root}", width, break_on_hyphens=False)]
    for title, needs in NEEDS.items():
        lines += ["", f"{title}{needs}"]
        if title == "published":
            lines[-1] = _row(title, "", ("classes", "images", "size", "here"), width)
        for name, kind in kinds.items():
            if kind.title == title:
                lines += _lines(name, kind, data_root, width)
    return "\n".join(lines)


def _lines(name: str, kind: Kind, data_root: Path, width: int) -> Iterator[str]:
    about, indent = kind.made.about, " " * (NAME + 2)
    if about is None:
        first, words = f"{name:<{NAME}}  ", kind.words
        words = words if words[:2].isupper() else words[:1].lower() + words[1:]
        yield from textwrap.wrap(words, width, initial_indent=first, subsequent_indent=indent)
        return
    place = about.present(data_root)
    count = ["-" if number is None else f"{number:,}" for number in (about.classes, about.images)]
    numbers = (*count, _size(about, place), "yes" if place else "no")
    title, *rest = textwrap.wrap(about.title, _room(width))
    yield _row(name, title, numbers, width)
    if place is not None:
        where = f"in {place.relative_to(data_root)}"
    else:
        where = f"metarun data get {name}" if about.downloads else f"by hand: metarun data get {name} says how"
    told = "; ".join([*([" ".join(rest)] if rest else []), about.splits, f"licence: {about.licence}", where])
    yield from textwrap.wrap(told, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _row(name: str, words: str, numbers: tuple[str, ...], width: int) -> str:
    cells = "  ".join(f"{text:>{room}}" for text, room in zip(numbers, NUMBERS, strict=True))
    return f"{name:<{NAME}}  {words:<{_room(width)}}  {cells}"


def _room(width: int) -> int:
    """Columns for words between a name and the numbers."""
    return width - NAME - sum(NUMBERS) - 2 * (len(NUMBERS) + 1)


def _size(about: About, place: Path | None) -> str:
    """Size of what is fetched, or else of the file that is here."""
    size = about.size
    if size is None and place is not None and place.is_file():
        size = place.stat().st_size
    if size is None:
        return "-"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def get(name: str, kind: Kind, dataset: Dataset, data_root: Path) -> str:
    """Download a data set, unless it is here, and return what was done, in words.

    Args:
        name: option of ``dataset``.
        kind: what it is.
        dataset: its settings.
        data_root: folder to download to.

    Raises:
        UserError: it cannot be downloaded, or not now; the message says what to fetch and where to put it.
    """
    about = kind.made.about
    if about is None:
        if kind.is_own:
            raise UserError(f"dataset={name}: reads files of your own; name them with dataset.path when you train")
        return f"{name}: needs no files"
    place = dataset.present(data_root)
    torn = about.downloads and any(wrong_files(about, data_root, archives=True))  # by a download that was stopped
    if place is not None and not torn:
        return f"{name}: is here already: {place}; metarun data check {name} looks at it"
    try:
        dataset.download(data_root)
    except UserError:
        raise
    except Exception as error:  # a download may fail in any way
        said = f"not downloaded ({' '.join(str(error).split()) or type(error).__name__})"
        raise UserError(f"dataset={name}: {said}. By hand: {about.by_hand_in(data_root)}") from error
    return f"{name}: downloaded to {dataset.present(data_root) or data_root}"
