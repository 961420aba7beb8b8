"""What is wrong with the files of a data set: checksums, missing and damaged files, classes, and whether it loads."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from metarun.datasets.about import About, File
from metarun.datasets.base import Dataset, Split, Tasks
from metarun.errors import UserError
from metarun.files import checking_sources

MOST = 20  # lines of one kind of problem
NAMED = 100  # classes whose sizes are listed one by one
ARCHIVES = (".zip", ".gz", ".tgz", ".tar")


@dataclass(frozen=True)
class Findings:
    """What a look at a data set found.

    Attributes:
        summary: one line.
        counts: lines about the classes and examples of each split.
        problems: one line each.
    """

    summary: str
    counts: list[str]
    problems: list[str]


def inspect(name: str, dataset: Dataset, data_root: Path, way: int, shot: int, query: int) -> Findings:
    """Look at the files of a data set, and read them as a run would, but not from the cache and without a download.

    Args:
        name: name of the data set.
        dataset: its settings.
        data_root: folder where data sets are looked for.
        way: N of the tasks that are to be drawn.
        shot: K.
        query: Q.

    Raises:
        UserError: nothing of it is there.
    """
    place = dataset.present(data_root)
    if dataset.about and place is None:
        raise UserError(f"dataset={name}: is not in {data_root}; metarun data get {name} gets it, or says how")
    problems = [*wrong_files(dataset.about, data_root)] if dataset.about else []
    tasks = None
    with warnings.catch_warnings(record=True) as warned, checking_sources():
        warnings.simplefilter("always", UserWarning)
        try:
            problems += dataset.problems(data_root)
            tasks = dataset.load(data_root, torch.device("cpu"))
        except UserError as error:
            problems = problems or [str(error)]  # which of them it is, has been said
    problems = problems or [str(one.message) for one in warned if issubclass(one.category, UserWarning)]
    problems += [*_too_few(tasks, way, shot, query)] if tasks else []
    counts = [line for split in Split for line in _counts(tasks, split)] if tasks else []
    where = f" in {place}" if place else ""
    found = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}" if problems else "no problem"
    return Findings(f"{name}{where}: {found}{_whole(tasks)}", counts, problems)


def limited(kind: str, names: list[str]) -> Iterator[str]:
    """Yield a line for each name, the first ``MOST`` of them, and how many more there are."""
    yield from (f"{kind}: {name}" for name in names[:MOST])
    if len(names) > MOST:
        yield f"{kind}: {len(names) - MOST} more"


def wrong_files(about: About, data_root: Path, archives: bool = False) -> Iterator[str]:
    """Compare files with their checksums. A file is missing if others of its folder are there.

    Args:
        about: what is known of the data set.
        data_root: folder where data sets are looked for.
        archives: whether archives can be missing; they may be removed when they are unpacked.
    """
    there = [file for file in about.files if (data_root / file.name).is_file()]
    folders = {Path(file.name).parent for file in there}
    for file in about.files:
        path = data_root / file.name
        if file in there:
            yield from _wrong(file, path)
        elif Path(file.name).parent in folders and (archives or not file.name.endswith(ARCHIVES)):
            yield f"missing: {path}"


def _wrong(file: File, path: Path) -> Iterator[str]:
    size = path.stat().st_size
    if file.bytes not in (None, size):
        yield f"damaged: {path} ({size:,} bytes instead of {file.bytes:,})"
        return
    for kind, known in (("md5", file.md5), ("sha256", file.sha256)):
        if known is not None and (found := checksum(path, kind)) != known:
            yield f"damaged: {path} ({kind} is {found} instead of {known})"


def checksum(path: Path, kind: str) -> str:
    """Return the checksum of a file, of which little is in memory at a time; ``kind``: md5 or sha256."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _too_few(tasks: Tasks, way: int, shot: int, query: int) -> Iterator[str]:
    for split in Split:
        if tasks.has(split):
            try:
                tasks.check(split, way, shot, query)
            except UserError as error:
                yield f"too few: {error}"


def _whole(tasks: Tasks | None) -> str:
    """Return how many classes and examples there are."""
    sizes = [of for split in Split if (of := tasks.sizes(split))] if tasks else []
    if not tasks or not sizes:
        return ""
    names = {name for of in sizes for name in of}
    return f"; {len(names):,} {tasks.apart}, {sum(sum(of.values()) for of in sizes):,} {tasks.noun}"


def _counts(tasks: Tasks, split: Split) -> Iterator[str]:
    """Yield the sizes of a split's classes: one number where all have the same, else each class with its own."""
    sizes = tasks.sizes(split)
    if not sizes:
        return
    noun, one = tasks.noun, tasks.apart.removesuffix("es" if tasks.apart == "classes" else "s")
    least, most = min(sizes.values()), max(sizes.values())
    told = f"{split.name}: {len(sizes):,} {tasks.apart}, "
    if least == most:
        yield f"{told}{most:,} {noun} in each"
        return
    yield f"{told}{least:,} to {most:,} {noun} a {one}"
    named = [f"{name}: {sizes[name]:,}" for name in sorted(sizes, key=lambda name: (sizes[name], name))]
    yield f"  {', '.join(named if len(named) <= NAMED else [*named[:5], '...', *named[-5:]])}"
