"""How a user's rows are divided: into classes or tasks, and these into splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from metarun.datasets.base import Split, cut
from metarun.datasets.class_folders import PARTS, digest
from metarun.datasets.table_file import listed
from metarun.datasets.task_pool import Groups
from metarun.errors import UserError

WORDS = {word: split for split, words in PARTS.items() for word in words}  # what a split column says


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A user's rows, read and checked.

    Attributes:
        x: [rows, ...] finite numbers, the inputs.
        inputs: names of the inputs; empty where they have none.
        y: class of each row, or float64 [rows, D] numbers to predict; empty where the data do not say.
        targets: names of what is predicted.
        task: name of each row's task; None: the data name none, and a task is classes.
        split: what each row's split is called; None: the data do not say.
        where: row -> its place in the file, in words.
    """

    x: np.ndarray
    inputs: list[str]
    y: list[str] | np.ndarray
    targets: list[str]
    task: list[str] | None
    split: list[str] | None
    where: Callable[[int], str]

    @property
    def noun(self) -> str:
        """What the splits divide, in the plural."""
        return "classes" if self.task is None else "tasks"


def classes_of(rows: Rows, trained: list[str]) -> list[str]:
    """Return the classes that all tasks have, in the order of their labels; empty where there are none.

    Args:
        rows: the rows.
        trained: classes of the run that is tested; empty: there is none.

    Raises:
        UserError: the rows have only one class, or one that the run does not know.
    """
    if rows.task is None or not isinstance(rows.y, list):
        return []
    found = sorted(set(rows.y))
    if trained:
        for row, name in enumerate(rows.y):
            if name not in trained:
                said = f"class {name} ({rows.where(row)}) is none of those of the run: {listed(trained)}"
                raise UserError(f"dataset: {said}")
        return trained
    if len(found) < 2:
        raise UserError(f"dataset: all rows are of class {found[0]}, so there is nothing to tell apart")
    return found


def grouped(rows: Rows, classes: list[str]) -> Groups:
    """Return the rows of each task, by class where it has some; or, without tasks, the rows of each class."""
    groups: Groups = {}
    number = {name: n for n, name in enumerate(classes)}
    for row, name in enumerate(rows.y if rows.task is None else rows.task):
        of_task = groups.setdefault(name, [[] for _ in range(max(1, len(classes)))])
        of_task[number[rows.y[row]] if classes else 0].append(row)
    return groups


def large_enough(groups: Groups, least: int) -> tuple[Groups, list[str]]:
    """Leave out classes and tasks with fewer than ``least`` rows, or fewer of any class; returns those left out too.

    Raises:
        UserError: none is left.
    """
    small = [name for name, of_task in groups.items() if min(map(len, of_task)) < least]
    if len(small) == len(groups):
        raise UserError(f"dataset.min_rows={least}: nothing has so many rows (of each class, where there are tasks)")
    return {name: of_task for name, of_task in groups.items() if name not in set(small)}, small


def by_shares(rows: Rows, groups: Groups, shares: list[float], seed: int) -> dict[Split, Groups]:
    """Draw the classes or tasks of each split; which are in which follows from the seed and their names.

    Raises:
        UserError: a split with a share gets none.
    """
    names = sorted(groups, key=lambda name: digest(f"{seed} {name}"))
    chosen = cut(range(len(names)), dict(zip(Split, shares, strict=True)))
    for split, share in zip(Split, shares, strict=True):
        if share and not chosen[split]:
            sizes = "/".join(str(len(some)) for some in chosen.values())
            raise UserError(
                f"dataset.shares=[{','.join(f'{s:g}' for s in shares)}]: {split.name} gets none of the {len(names)} "
                f"{rows.noun} ({sizes}); change the shares, or set this one to 0"
            )
    return {split: {names[i]: groups[names[i]] for i in some} for split, some in chosen.items()}


def by_column(rows: Rows, groups: Groups, column: str) -> dict[Split, Groups]:
    """Divide classes or tasks as a column says.

    Raises:
        UserError: the column says something else than train, val and test, or puts one into two splits.
    """
    assert rows.split is not None, "only called where the data have such a column"
    first: dict[str, tuple[Split, int]] = {}  # class or task -> split, and the row that says so
    for row, name in enumerate(rows.y if rows.task is None else rows.task):
        said = rows.split[row]
        split = WORDS.get(said.lower())
        if split is None:
            raise UserError(f"dataset.split={column}: {rows.where(row)}: {said!r} is none of train, val, test")
        known, earlier = first.setdefault(name, (split, row))
        if known is not split:
            raise UserError(
                f"dataset.split={column}: {rows.noun[:-2] if rows.task is None else 'task'} {name} is in {known.name} "
                f"({rows.where(earlier)}) and in {split.name} ({rows.where(row)}); splits must have {rows.noun} of "
                "their own"
            )
    return {split: {name: of for name, of in groups.items() if first[name][0] is split} for split in Split}


def rows_of(held: Mapping[str, list[list[int]]]) -> np.ndarray:
    """Return the rows of a split, in the order of the file, int64."""
    return np.array(sorted(row for of_task in held.values() for some in of_task for row in some), np.int64)
