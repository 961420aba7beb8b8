"""A table as text: Markdown for files, and lines that fit the width of a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from dataclasses import dataclass

from metarun.errors import one_line

NARROW = 12  # a column of a terminal is made no narrower, but left out
GAP = "  "


@dataclass(frozen=True)
class Grid:
    """Titles and cells of a table, as they are shown.

    Attributes:
        titles: title of each column.
        rows: the cells, a list for each row.
    """

    titles: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Format as a Markdown table."""
        rule = "|---" * len(self.titles) + "|"
        return "\n".join([_row(self.titles), rule, *map(_row, self.rows)])

    def shown(self, keep: set[str], whole: str) -> str:
        """Format for the terminal, or as Markdown where the output goes elsewhere; the arguments are of ``fitted``."""
        if not sys.stdout.isatty():
            return self.markdown()
        return self.fitted(shutil.get_terminal_size().columns, keep, whole)

    def fitted(self, width: int, keep: set[str], whole: str) -> str:
        """Format as lines of at most ``width`` characters, where that is possible with the columns to keep.

        A table that is too wide is made narrower in three ways, one after another: columns that are alike in all rows
        are said in a sentence below it, cells are wrapped, and columns are left out, the last one first, and named.

        Args:
            width: characters of a line.
            keep: titles of the columns that stay whole.
            whole: where the whole table is, for the sentence about columns that were left out.
        """
        columns = {
            title: [_spaced(title), *(_spaced(row[i]) for row in self.rows)] for i, title in enumerate(self.titles)
        }
        room, said = {title: max(map(len, cells)) for title, cells in columns.items()}, []
        if _total(room) > width:
            alike = [title for title in room if title not in keep and len(set(columns[title][1:])) == 1]
            facts = [f"{title} {columns[title][1] or '(none)'}" for title in alike if room.pop(title)]
            said += [f"In all rows: {'; '.join(facts)}."] if facts else []
        least = {title: natural if title in keep else min(natural, NARROW) for title, natural in room.items()}
        left_out = []
        for title in reversed(list(room)):
            if _total(least) > width and title not in keep:
                left_out.append(title)
                del least[title], room[title]
        while _total(room) > width and (wide := [title for title in room if room[title] > least[title]]):
            room[max(wide, key=room.__getitem__)] -= 1
        if left_out:
            said.append(f"Left out, since the terminal has {width} columns: {', '.join(left_out[::-1])}. See {whole}.")
        head, *body = zip(*([_wrapped(cell, room[title]) for cell in columns[title]] for title in room), strict=True)
        lines = [*_lines(head, list(room.values())), GAP.join("─" * each for each in room.values())]
        for cells in body:
            lines += _lines(cells, list(room.values()))
        text = "\n".join([*lines, "", *(line for sentence in said for line in _wrapped(sentence, width))])
        return text.replace("\0", "").rstrip()


def _row(cells: list[str]) -> str:
    """Format a row of Markdown, in which a cell's own bars and line breaks are no syntax."""
    return f"| {' | '.join(one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _spaced(text: str) -> str:
    """Put a null behind each letter that takes two columns of a terminal, so that ``len`` is the width."""
    return "".join(c + "\0" * (unicodedata.east_asian_width(c) in "WF") for c in one_line(text))


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _lines(cells: tuple[list[str], ...], widths: list[int]) -> list[str]:
    """Set the wrapped cells of one row side by side."""
    height = max(map(len, cells))
    padded = [[*of, *[""] * (height - len(of))] for of in cells]
    return [
        GAP.join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*padded, strict=True)
    ]
