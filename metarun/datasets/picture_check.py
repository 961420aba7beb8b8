"""Look at every picture file of class folders: unreadable, missing and extra files, and files that are there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metarun.datasets.class_folders import SUFFIXES
from metarun.datasets.imagefile import Unreadable, image_files
from metarun.datasets.inspection import limited
from metarun.progress import progress_bar


def problems(
    classes: Mapping[str, Iterable[Path]],
    folders: Iterable[Path],
    root: Path,
    look: Callable[[Path], Any],
    *,
    each: int | None = None,
    copies: bool = False,
) -> Iterator[str]:
    """Yield what is wrong with picture files, one line each; paths are told from ``root`` on.

    Args:
        classes: class -> its picture files.
        folders: folders that should hold these files and nothing else, as the folders above them no pictures; hidden
            files are not looked at.
        root: the data set's folder.
        look: reads one file, or raises ``Unreadable``.
        each: how many files each class should have; None: any number but 0.
        copies: whether the same file in two places is a problem.
    """
    files = [path for paths in classes.values() for path in paths]
    unreadable, seen, twice = list[str](), dict[bytes, Path](), list[str]()
    for path in progress_bar(files, desc="looking at pictures", unit="file", leave=True):
        try:
            look(path)
        except Unreadable as error:
            unreadable.append(f"{path.relative_to(root)} ({error.reason})")
            continue
        if copies:
            first = seen.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
            if first != path:
                twice.append(f"{path.relative_to(root)} is the same file as {first.relative_to(root)}")
    yield from limited("unreadable", unreadable)
    yield from limited("the same picture twice", twice)
    yield from limited("extra", [str(path.relative_to(root)) for path in _extra(set(folders), set(files))])
    count = {name: len(list(paths)) for name, paths in classes.items()}
    yield from limited("no picture", [name for name, number in count.items() if not number])
    if each is not None:
        odd = {name: number for name, number in count.items() if number not in (0, each)}
        yield from limited(
            "number of files", [f"{name} has {number} instead of {each}" for name, number in odd.items()]
        )


def _extra(folders: set[Path], known: set[Path]) -> list[Path]:
    """List what else lies in the folders, and pictures beside them."""
    within = {path for folder in folders for path in folder.glob("[!.]*")}
    beside = {path for above in {folder.parent for folder in folders} for path in image_files(above, SUFFIXES)}
    return sorted((within | beside) - known)
