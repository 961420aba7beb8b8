from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarun.datasets.table_file import Columns, Delimiter, read_table
from metarun.errors import UserError
from tests.support.own_tables import HEADER, changed, sensors, write


def table(path: Path, delimiter: Delimiter = Delimiter.comma) -> Columns:
    return read_table(path, delimiter)


def test_a_csv_file_is_columns_with_the_lines_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\ufeffname, speed ,note\nM1, 1.5 ,"two\nlines"\n\n M2,-2e3,x\n', encoding="utf-8")
    columns = table(path)
    assert list(columns.cells) == ["name", "speed", "note"]  # without the mark of its encoding, and without spaces
    assert columns.numbers("speed").tolist() == [1.5, -2000.0] and columns.texts("name") == ["M1", "M2"]
    assert [columns.where(row) for row in (0, 1)] == ["line 2", "line 5"]  # a cell has two lines, and one line is empty


@pytest.mark.parametrize("delimiter", Delimiter)
def test_delimiters(delimiter: Delimiter, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", delimiter=delimiter.value)
    assert list(table(path, delimiter).cells) == HEADER
    other = next(d for d in Delimiter if d is not delimiter)
    with pytest.raises(
        UserError, match=rf"no {other.name}, but a {delimiter.name}: dataset.delimiter={delimiter.name}"
    ):
        table(path, other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 18, column load: the value is missing"),
        ("NaN", "line 18, column load: the value is missing ('NaN')"),
        ("n/a", "line 18, column load: the value is missing ('n/a')"),
        ("high", "line 18, column load: 'high' is no number"),
        ("3,14", "line 18, column load: '3,14' is no number (write a decimal point)"),
        ("-inf", "line 18, column load: -inf is not finite"),
        ("1e999", "line 18, column load: 1e999 is not finite"),
    ],
)
def test_a_cell_that_is_no_number_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", changed(17, "load", text))
    with pytest.raises(UserError, match=re.escape(f"dataset.path={path}: {said}") + "$"):
        table(path).numbers("load")


def test_other_such_cells_are_counted(tmp_path: Path) -> None:
    rows = changed(17, "load", "")
    rows[20][2] = rows[31][2] = "?"
    with pytest.raises(UserError, match="line 18, column load: the value is missing, and so are 2 more cells"):
        table(write(tmp_path / "t.csv", rows)).numbers("load")
    with pytest.raises(UserError, match=r"line 18, column machine: the value is missing$"):
        table(write(tmp_path / "t.csv", changed(17, "machine", " "))).texts("machine")


def _write(content: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


WRONG: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "not there": ("t.csv", lambda path: None, "there is no such file; paths are relative to data_root"),
    "a folder": ("t.csv", Path.mkdir, "is a folder, and must be a file"),
    "a workbook": ("t.xlsx", _write("PK"), "must be a file whose name ends in .csv, .tsv, .txt, .parquet, .npz"),
    "empty": ("t.csv", _write(""), "is empty"),
    "a header": ("t.csv", _write("a,b\n"), "has no rows"),
    "no header": ("t.csv", _write("1,2\n3,4\n"), "its first line is all numbers, and must name the columns"),
    "names": ("t.csv", _write("a,b,a\n1,2,3\n"), "columns 1 and 3 are both named a"),
    "no name": ("t.csv", _write(",a\n0,1\n"), "column 1 has no name"),
    "ragged": ("t.csv", _write("a,b\n1,2\n3\n"), "line 3 has 1 cells, and the first 2 columns"),
    "open quote": ("t.csv", _write('a,b\n"1,2\n'), "line 2: unexpected end of data"),
    "latin": ("t.csv", _write("a\nä\n".encode("latin-1")), "is not UTF-8 text"),
    "no zip": ("t.npz", _write("PK"), "is no NPZ file, which numpy.savez writes"),
    "nothing": ("t.npz", _write(""), "is no NPZ file, which numpy.savez writes"),
    "objects": ("t.npz", lambda p: np.savez(p, a=np.array([1, "b"], object)), "array a holds Python objects"),
    "two axes": ("t.npz", lambda p: np.savez(p, a=np.zeros((3, 2))), r"array a has shape \[3, 2\].*dataset=arrays"),
    "lengths": ("t.npz", lambda p: np.savez(p, a=np.zeros(3), b=np.zeros(4)), "numbers of rows: a 3, b 4"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_table_is_refused(name: str, tmp_path: Path) -> None:
    file, make, said = WRONG[name]
    make(tmp_path / file)
    with pytest.raises(UserError, match=said) as refused:
        table(tmp_path / file)
    assert str(refused.value).startswith(f"dataset.path={tmp_path / file}: ")


def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    columns = table(write(tmp_path / "t.csv"))
    with pytest.raises(UserError, match=r"dataset.task=Machin: t.csv has no such column \(did you mean machine\?\)"):
        columns.require("task", "Machin")
    with pytest.raises(UserError, match="it has machine, speed"):
        columns.require("task", "x")
    many = Columns(tmp_path / "t.csv", {f"c{i}": ["1"] for i in range(200)})
    with pytest.raises(UserError, match=r"it has c0, .*, c19 and 180 more$"):
        many.require("task", "x")


def test_arrays_are_columns_too(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, n=np.arange(3), f=np.array([1.5, 2.0, np.nan]), s=np.array(["a", "b", ""]), b=np.arange(3) > 0)
    columns = table(path)
    assert columns.numbers("n").tolist() == [0, 1, 2] and columns.texts("n") == ["0", "1", "2"]
    assert columns.texts("b") == ["False", "True", "True"] and columns.numbers("b").tolist() == [0, 1, 1]
    with pytest.raises(UserError, match=r"row 3 \(the first is 1\), column f: the value is missing"):
        columns.numbers("f")
    with pytest.raises(UserError, match=r"row 1 \(the first is 1\), column f: 1.5 is no name and no whole number"):
        columns.texts("f")
    path = tmp_path / "odd.npz"
    np.savez(path, c=np.zeros(3, complex), d=np.zeros(3, "datetime64[s]"), n=np.arange(3))
    odd = table(path)  # columns that nobody asks for may be of any type
    assert odd.numbers("n").tolist() == [0, 1, 2]
    for name, of in (("c", "complex128"), ("d", r"datetime64\[s\]")):
        for read in (odd.numbers, odd.texts):
            with pytest.raises(UserError, match=f"column {name} is of type {of}; write numbers or texts, please"):
                read(name, ", please")
    with pytest.raises(UserError, match=r"row 3 .*, column s: the value is missing"):
        columns.texts("s")


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pip install 'metarun[parquet]', which the dev extra contains")
    from pyarrow.parquet import write_table

    folder = tmp_path / "part=7"  # readers of whole data sets take this for a column
    folder.mkdir()
    path, text = folder / "t.parquet", table(write(tmp_path / "t.csv"))
    kinds = {"speed [rpm]": float, "load": float, "temperature": float, "power": float}
    cells = {name: [kinds.get(name, str)(cell) for cell in column] for name, column in text.cells.items()}
    write_table(arrow.table(cells), path)
    columns = table(path)
    assert list(columns.cells) == HEADER and columns.texts("machine") == text.texts("machine")
    assert np.array_equal(columns.numbers("load"), text.numbers("load"))
    write_table(arrow.table({"a": arrow.array([1, None, 3]), "s": arrow.array(["x", None, "y"])}), path)
    with pytest.raises(UserError, match=r"row 2 \(the first is 1\), column a: the value is missing"):
        table(path).numbers("a")
    with pytest.raises(UserError, match=r"row 2 \(the first is 1\), column s: the value is missing"):
        table(path).texts("s")
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        table(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return whole(name, *rest)

    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'metarun\[parquet\]'"):
        table(tmp_path / "t.parquet")


def test_rows_of_the_generated_table_are_as_they_are_described() -> None:
    header, *rows = sensors()
    assert len(header) == len(rows[0]) and len(rows) == 160 and {row[5] for row in rows} == {"run", "idle"}
