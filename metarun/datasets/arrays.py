"""A user's own arrays: series, spectra, or images of any channels, in one NPZ file with what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarun.datasets.own_rows import OwnRows, Predict
from metarun.datasets.row_groups import Rows
from metarun.datasets.scaling import Normalise
from metarun.datasets.table_file import Columns, read_arrays, require_equal, require_file
from metarun.errors import UserError, require


@dataclass(kw_only=True, slots=True)
class Arrays(OwnRows):
    """An example is ``x[i]``, of any shape; ``OwnRows`` says how rows, the first axis of all arrays, become tasks.

    Attributes:
        x: name of the array of inputs, [rows, ...].
        y: name of the array that is predicted: classes [rows], or numbers [rows] or [rows, D].
        normalise: which inputs share a mean and a deviation, of the meta-training rows; numbers to predict are
            normalised too, unless it is none.
    """

    x: str
    y: str
    normalise: Normalise

    def __post_init__(self) -> None:
        OwnRows.__post_init__(self)
        parts = {"x": self.x, "y": self.y, "task": self.task, "split": self.split}
        for key, name in parts.items():
            other = next((k for k, n in parts.items() if n == name and k != key), "")
            require(name is None or not other, key, name, f"another array: it is dataset.{other} too")

    @property
    def normalising(self) -> Normalise:
        return self.normalise

    def read(self, path: Path) -> Rows:
        require_file(path, (".npz",))
        return self._rows(path, read_arrays(path), ("x", "y", "task", "split"))

    def read_some(self, path: Path, inputs: list[str], support: bool) -> Rows:
        require_file(path, (".npz",))
        found = read_arrays(path)
        there = [key for key in ("y", "task") if getattr(self, key) in found or (key == "y" and support)]
        return self._rows(path, found, ("x", *there))

    def _rows(self, path: Path, found: dict[str, np.ndarray], keys: Sequence[str]) -> Rows:
        """The rows of a file, with the parts ``keys``, as far as the settings name them."""
        used = {key: name for key in keys if (name := getattr(self, key)) is not None}
        arrays = Columns(path, found)
        for key, name in used.items():
            arrays.require(key, name, "array")
            axes = {"x": found[name].ndim >= 2, "y": found[name].ndim in (1, 2)}.get(key, found[name].ndim == 1)
            wanted = {"x": "[rows, ...]", "y": "[rows], or [rows, D] for D numbers"}.get(key, "[rows]")
            if not axes or 0 in found[name].shape[1:]:
                raise UserError(f"dataset.{key}={name}: the array has shape {[*found[name].shape]}, not {wanted}")
        require_equal(path, {name: len(found[name]) for name in used.values()})
        of_y: dict[str, np.ndarray] = {}
        if "y" in used:
            y = found[self.y]
            of_y = {self.y: y} if y.ndim == 1 else {f"{self.y}[{d}]": y[:, d] for d in range(y.shape[1])}
        columns = Columns(path, {**of_y, **{used[key]: found[used[key]] for key in ("task", "split") if key in used}})
        return Rows(
            x=self._inputs(path, found[self.x]),
            inputs=[],
            y=self._predicted(columns, list(of_y)) if of_y else [],
            targets=list(of_y),
            task=columns.texts(used["task"]) if "task" in used else None,
            split=columns.texts(used["split"]) if "split" in used else None,
            where=columns.where,
        )

    def _inputs(self, path: Path, x: np.ndarray) -> np.ndarray:
        if x.dtype.kind not in "biuf":
            raise UserError(f"dataset.x={self.x}: is of type {x.dtype}, and must be numbers")
        if not np.isfinite(x).all():
            at = np.argwhere(~np.isfinite(x))[0].tolist()
            raise UserError(f"dataset.path={path}: {self.x}{at} is {x[tuple(at)]}, and must be finite")
        return x

    def _predicted(self, columns: Columns, names: list[str]) -> list[str] | np.ndarray:
        if self.predict is Predict.classes:
            if len(names) > 1:
                said = f"has {len(names)} columns, and classes are one"
                raise UserError(f"dataset.y={self.y}: {said}; for numbers to predict: dataset.predict=numbers")
            return columns.texts(names[0], "; for a number to predict: dataset.predict=numbers")
        hint = "; for classes: dataset.predict=classes"
        return np.stack([columns.numbers(name, hint) for name in names], 1)
