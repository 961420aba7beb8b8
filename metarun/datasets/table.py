"""A user's own table: CSV, Parquet or NPZ, with columns for inputs, for what is predicted, and for tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarun.datasets.own_rows import OwnRows, Predict
from metarun.datasets.row_groups import Rows
from metarun.datasets.scaling import Normalise
from metarun.datasets.table_file import Columns, Delimiter, read_table, twice
from metarun.errors import UserError, require
from metarun.files import user_path


@dataclass(kw_only=True, slots=True)
class Table(OwnRows):
    """An example is a row of a table; ``OwnRows`` says how rows become tasks.

    Attributes:
        features: columns that are the inputs; None: all that have no other part.
        target: columns that are predicted: one with classes, or one or several with numbers.
        delimiter: what stands between the columns of a CSV file.
        normalise: whether features, and numbers to predict, become (value - mean) / deviation of the meta-training
            rows, each column by itself.
    """

    features: list[str] | None
    target: list[str]
    delimiter: Delimiter
    normalise: bool

    def __post_init__(self) -> None:
        OwnRows.__post_init__(self)
        one = len(self.target) == 1
        require(bool(self.target), "target", self.target, "one or several columns, such as [price]")
        require(one or self.predict is Predict.numbers, "target", self.target, "one column, with predict=classes")
        require(self.features is None or bool(self.features), "features", self.features, "null or columns")
        parts = {"features": self.features or [], "target": self.target}
        parts |= {"task": [self.task] if self.task else [], "split": [self.split] if self.split else []}
        taken: dict[str, str] = {}
        for key, names in parts.items():
            require(not twice(names), key, names, "columns that differ")
            for name in names:
                require(name not in taken, key, name, f"another column: it is dataset.{taken.get(name)} too")
                taken[name] = key

    @property
    def normalising(self) -> Normalise:
        return Normalise.each if self.normalise else Normalise.none

    def problems(self, data_root: Path) -> Iterator[str]:
        table = read_table(data_root / user_path(self.path), self.delimiter)
        numbers, names = self._inputs(table), [name for name in (self.task, self.split) if name]
        (numbers if self.predict is Predict.numbers else names).extend(self.target)
        for read, columns in ((table.numbers, numbers), (table.texts, names)):
            for column in columns:
                try:
                    read(column)
                except UserError as error:
                    yield str(error)

    def _inputs(self, table: Columns) -> list[str]:
        """The columns that are the inputs, after a look at whether the table has all columns that are named."""
        others = {"target": self.target, "task": [self.task or ""], "split": [self.split or ""]}
        for key, names in {"features": self.features or [], **others}.items():
            for name in filter(None, names):
                table.require(key, name)
        beside = {name for names in others.values() for name in names}
        inputs = [*(self.features or [])] or [name for name in table.cells if name not in beside]
        if not inputs:
            said = f"no column is left for dataset.features; it has {', '.join(beside)}"
            raise UserError(f"dataset.path={table.path}: {said}")
        return inputs

    def read(self, path: Path) -> Rows:
        table = read_table(path, self.delimiter)
        inputs = self._inputs(table)
        hint = "" if self.features else "; dataset.features=[...] names the columns to use"
        return Rows(
            x=np.stack([table.numbers(name, hint) for name in inputs], 1),
            inputs=inputs,
            y=self._predicted(table),
            targets=self.target,
            task=table.texts(self.task) if self.task else None,
            split=table.texts(self.split) if self.split else None,
            where=table.where,
        )

    def read_some(self, path: Path, inputs: list[str], support: bool) -> Rows:
        table = read_table(path, self.delimiter)
        for key, names in {"features": inputs, "target": self.target if support else []}.items():
            for name in names:
                table.require(key, name)
        told = all(any(str(cell).strip() for cell in table.cells.get(name, ())) for name in self.target)
        return Rows(
            x=np.stack([table.numbers(name) for name in inputs], 1),
            inputs=inputs,
            y=self._predicted(table) if support or told else [],
            targets=self.target,
            task=table.texts(self.task) if self.task and self.task in table.cells else None,
            split=None,
            where=table.where,
        )

    def _predicted(self, table: Columns) -> list[str] | np.ndarray:
        if self.predict is Predict.classes:
            return table.texts(self.target[0], "; for a number to predict: dataset.predict=numbers")
        hint = "; for classes: dataset.predict=classes"
        return np.stack([table.numbers(name, hint) for name in self.target], 1)
