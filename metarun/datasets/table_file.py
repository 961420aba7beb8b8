"""A user's tables: CSV, Parquet and NPZ files as named columns, whose cells are checked one by one."""

from __future__ import annotations

import csv
import enum
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from metarun.errors import UserError, did_you_mean, first_line, one_line

MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-")  # what programs write for a number that is not there
KINDS = (".csv", ".tsv", ".txt", ".parquet", ".npz")


class Delimiter(enum.Enum):
    """What stands between the columns of a CSV file."""

    comma = ","
    semicolon = ";"
    tab = "\t"


@dataclass(frozen=True)
class Columns:
    """A table as it was read.

    Attributes:
        path: the file.
        cells: column name -> cells, texts of a CSV file or an array.
        lines: line of each row in a CSV file; None: rows are counted from 1.
    """

    path: Path
    cells: Mapping[str, Sequence[str] | np.ndarray]
    lines: Sequence[int] | None = None

    def where(self, row: int) -> str:
        """Name a row for a reader: its line in a CSV file, else its number."""
        return f"row {row + 1} (the first is 1)" if self.lines is None else f"line {self.lines[row]}"

    def require(self, key: str, name: str, noun: str = "column") -> None:
        """Raise ``UserError``, with the columns that there are, if there is none of this name.

        Args:
            key: key of the configuration that names it.
            name: name of the column.
            noun: what the columns are called.
        """
        if name not in self.cells:
            near, known = did_you_mean(name, self.cells), listed(self.cells)
            raise UserError(f"dataset.{key}={name}: {self.path.name} has no such {noun}{near}; it has {known}")

    def numbers(self, name: str, hint: str = "") -> np.ndarray:
        """Return a column of finite numbers, float64 [rows].

        Args:
            name: name of the column.
            hint: end of the message.

        Raises:
            UserError: a cell is missing, infinite or no number; the message names the first, and counts the others.
        """
        cells = self._cells(name, hint)
        if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
            values = cells.astype(np.float64)
        else:
            try:
                values = np.array([float(cell) for cell in cells])
            except (ValueError, TypeError):
                self._refuse(name, lambda cell: not _is_number(cell), hint)
        if not np.isfinite(values).all():
            self._refuse(name, lambda cell: not math.isfinite(float(cell)), hint)
        return values

    def texts(self, name: str, hint: str = "") -> list[str]:
        """Return a column of names, such as classes or tasks; whole numbers become texts.

        Args:
            name: name of the column.
            hint: end of the message for numbers that are not whole.

        Raises:
            UserError: a cell is empty, or a number that is not whole.
        """
        cells = self._cells(name, hint)
        if isinstance(cells, np.ndarray):
            cells = cells.tolist()
        found = [_text(cell) for cell in cells]
        if not all(found):
            self._refuse(name, lambda cell: not _text(cell), hint)
        return [text or "" for text in found]

    def _cells(self, name: str, hint: str) -> Sequence[str] | np.ndarray:
        cells = self.cells[name]
        if isinstance(cells, np.ndarray) and cells.dtype.kind not in "biufSUO":
            said = f"column {name} is of type {cells.dtype}; write numbers or texts"
            raise UserError(f"dataset.path={self.path}: {said}{hint}")
        return cells

    def _refuse(self, name: str, wrong: Callable[[Any], bool], hint: str) -> NoReturn:
        rows = [row for row, cell in enumerate(self.cells[name]) if wrong(cell)]
        others = f", and so are {len(rows) - 1} more cells of this column" if len(rows) > 1 else ""
        reason = _reason(self.cells[name][rows[0]])
        raise UserError(f"dataset.path={self.path}: {self.where(rows[0])}, column {name}: {reason}{others}{hint}")


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (ValueError, TypeError):
        return False
    return True


def _text(cell: Any) -> str | None:
    """Return a cell as a name; None where it is missing or a number that is not whole."""
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else None
    return None if cell is None else str(cell).strip() or None


def _reason(cell: Any) -> str:
    """Say what is wrong with a cell."""
    text = "" if cell is None else str(cell).strip()
    if text.lower() in MISSING:
        return f"the value is missing ({text!r})" if text else "the value is missing"
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return f"{text!r} is no number (write a decimal point)"
    if not _is_number(cell):
        return f"{text[:40]!r} is no number"
    return f"{text} is not finite" if not math.isfinite(float(cell)) else f"{text} is no name and no whole number"


def read_table(path: Path, delimiter: Delimiter) -> Columns:
    """Read a table.

    Args:
        path: file; the end of its name says of which kind it is.
        delimiter: what stands between the columns of a CSV file.

    Raises:
        UserError: there is no such file, or it is no table.
    """
    require_file(path, KINDS)
    kind = path.suffix.lower()
    if kind == ".npz":
        return _of_arrays(path)
    return _parquet(path) if kind == ".parquet" else _csv(path, delimiter)


def require_file(path: Path, kinds: Sequence[str]) -> None:
    """Raise ``UserError`` if there is no file ``path``, or the end of its name is not one of ``kinds``."""
    if not path.is_file():
        what = "is a folder, and must be a file" if path.is_dir() else "there is no such file"
        raise UserError(f"dataset.path={path}: {what}; paths are relative to data_root, or absolute")
    if path.suffix.lower() not in kinds:
        raise UserError(f"dataset.path={path}: must be a file whose name ends in {', '.join(kinds)}")


def _csv(path: Path, delimiter: Delimiter) -> Columns:
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader, line = csv.reader(file, delimiter=delimiter.value, strict=True), 1
            for row in reader:
                if row:
                    rows.append([cell.strip() for cell in row])
                    lines.append(line)
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise UserError(f"dataset.path={path}: is not UTF-8 text ({error.reason})") from None
    except csv.Error as error:
        raise UserError(f"dataset.path={path}: line {line}: {error}") from None
    if not rows:
        raise UserError(f"dataset.path={path}: is empty")
    names, rows, lines = rows[0], rows[1:], lines[1:]
    others = [other for other in Delimiter if other is not delimiter and other.value in names[0]]
    if len(names) == 1 and others:
        said = f"its first line has no {delimiter.name}, but a {others[0].name}"
        raise UserError(f"dataset.path={path}: {said}: dataset.delimiter={others[0].name}")
    if all(_is_number(name) for name in names):
        raise UserError(f"dataset.path={path}: its first line is all numbers, and must name the columns")
    for row, at in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise UserError(f"dataset.path={path}: line {at} has {len(row)} cells, and the first {len(names)} columns")
    cells = list(zip(*rows, strict=True))
    return _columns(path, names, cells or [()] * len(names), lines)


def _parquet(path: Path) -> Columns:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"dataset.path={path}: Parquet needs pyarrow: pip install 'metarun[parquet]'") from None
    try:
        with ParquetFile(path) as file:
            table = file.read()
        cells = [column.to_numpy(zero_copy_only=False) for column in table.columns]
    except (ArrowException, OSError) as error:
        raise UserError(f"dataset.path={path}: cannot be read ({first_line(error)})") from None
    return _columns(path, table.column_names, cells, None)


def _of_arrays(path: Path) -> Columns:
    arrays = read_arrays(path)
    for name, array in arrays.items():
        if array.ndim != 1:
            said = f"array {name} has shape {[*array.shape]}, and a column has one axis"
            raise UserError(f"dataset.path={path}: {said}; dataset=arrays is for others")
    return _columns(path, list(arrays), list(arrays.values()), None)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an NPZ file, without running code that it may contain.

    Raises:
        UserError: it is no NPZ file, or an array holds Python objects.
    """
    name = ""
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise UserError(f"dataset.path={path}: holds one array without a name; write it with numpy.savez")
        with stored:
            arrays = {}
            for name in stored.files:
                arrays[name] = stored[name]
            return arrays
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        if not name:
            raise UserError(f"dataset.path={path}: is no NPZ file, which numpy.savez writes") from None
        objects = "holds Python objects; make it an array of numbers or of texts"
        said = objects if "object" in str(error).lower() else f"cannot be read ({first_line(error)})"
        raise UserError(f"dataset.path={path}: array {name} {said}") from None


def _columns(
    path: Path, names: Sequence[str], cells: Sequence[Sequence[str] | np.ndarray], lines: Sequence[int] | None
) -> Columns:
    for at, name in enumerate(names):
        if not name:
            hint = "; pandas writes none without a name by to_csv(index=False)"
            raise UserError(f"dataset.path={path}: column {at + 1} has no name{hint}")
        if name in names[:at]:
            raise UserError(f"dataset.path={path}: columns {names.index(name) + 1} and {at + 1} are both named {name}")
    require_equal(path, dict(zip(names, map(len, cells), strict=True)))
    return Columns(path, dict(zip(names, cells, strict=True)), lines)


def require_equal(path: Path, rows: dict[str, int]) -> None:
    """Raise ``UserError`` unless all have the same number of rows, and there are some.

    Args:
        path: the file.
        rows: name -> number of rows.
    """
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"dataset.path={path}: its parts differ in their numbers of rows: {told}")
    if not any(rows.values()):
        raise UserError(f"dataset.path={path}: has no rows")


def listed(names: Iterable[str], most: int = 20) -> str:
    """Return names as one line, the first ``most`` of them and how many more there are."""
    shown = [one_line(name).replace("|", "/") for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def twice(names: Iterable[str]) -> list[str]:
    """Return the names that come more than once."""
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
