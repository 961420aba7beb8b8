from __future__ import annotations

import os
import re
import shutil
import sys

import pytest

from metarun.results.grid import Grid

TITLES = ["algo", "dataset", "result", "split", "outer_lr", "note"]
ROWS = [
    ["maml", "omniglot", "98.70 ± 0.40 %", "maml 1100/100/423", "0.003", "a first note of some length"],
    ["a_method_with_a_long_name", "omniglot", "97.00 ± 0.55 %", "maml 1100/100/423", "0.001", ""],
]
GRID = Grid(TITLES, ROWS)


def told(text: str, sentence: str) -> str:
    """The rest of a sentence below the table, which may be several lines."""
    found = re.search(rf"{sentence}(.*?)\.(?:\s|$)", " ".join(text.split()))
    return found[1].strip() if found else ""


def test_markdown_is_not_broken_by_what_stands_in_a_cell() -> None:
    text = Grid(["a|b", "c"], [["1|2", "x\ny"], ["", "\x1b[31m"]]).markdown()
    assert text.splitlines() == ["| a\\|b | c |", "|---|---|", "| 1\\|2 | x\\ny |", "|  | \\x1b[31m |"]


def test_a_table_that_fits_is_whole_and_aligned() -> None:
    text = GRID.fitted(200, {"algo", "result"}, "table.md")
    head, rule, *rows = text.splitlines()
    assert len(rows) == 2 and not told(text, "In all rows:") and set(rule) == {"─", " "}
    for title, cells in zip(TITLES, zip(*ROWS, strict=True), strict=True):
        place = head.index(title)
        assert all(row[place:].startswith(cell) for row, cell in zip(rows, cells, strict=True))


@pytest.mark.parametrize("width", range(45, 130, 3))
def test_a_narrow_table_fits_and_every_column_is_shown_or_told(width: int) -> None:
    text = GRID.fitted(width, {"algo", "result"}, "table.md")
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    alike = told(text, "In all rows:")
    left_out = told(text, "Left out, since the terminal has .. columns:").split(", ")
    for title in TITLES:
        shown = title in lines[0]
        assert [shown, f"{title} " in alike, title in left_out].count(True) == 1, title
    assert all(word in " ".join(text.split()) for word in ("omniglot", "maml 1100/100/423")), "said, not lost"
    for row in ROWS:
        assert sum(row[0] in line and row[2] in line for line in lines) == 1, "method and result stay whole"
    assert ("table.md" in text) == (left_out != [""])


def test_cells_are_wrapped_before_columns_are_left_out() -> None:
    text = GRID.fitted(75, {"algo", "result"}, "table.md")
    assert "note" in text.splitlines()[0] and "Left out" not in text and len(text.splitlines()) > 6
    assert "Left out" in GRID.fitted(55, {"algo", "result"}, "table.md")


def test_letters_of_two_columns_and_signs_that_move_the_cursor() -> None:
    wide = Grid(["a", "b"], [["文字文字", "x"], ["ab", "\x1b[2J"]]).fitted(80, set(), "")
    first, second = wide.splitlines()[2:]
    assert first == "文字文字  x" and second == "ab" + " " * 8 + "\\x1b[2J"


def test_no_rows() -> None:
    assert Grid(["algo", "result"], []).fitted(80, {"algo"}, "t").splitlines()[0] == "algo  result"


def test_a_terminal_gets_lines_that_fit_and_a_file_gets_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((75, 24)))
    for terminal, shown in ((True, GRID.fitted(75, {"algo"}, "table.md")), (False, GRID.markdown())):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        assert GRID.shown({"algo"}, "table.md") == shown
