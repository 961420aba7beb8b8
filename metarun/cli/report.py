"""``metarun report``: write one table of many runs."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

from metarun.cli.parser import Parser, require_folder
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, first_line


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "report",
        usage="metarun report PATH [PATH ...] [out=DIR]",
        description="One table of every finished run and evaluation under the paths, to the terminal and to table.md\n"
        "and table.csv in DIR, as a plot against inner steps, table.png, and as a page to look at, index.html. Runs\n"
        "that differ only in seed are merged. Where a terminal is too narrow, columns that are alike in all rows are\n"
        "told below the table; then cells are wrapped; then columns are left out, and named.",
        epilog="  metarun report outputs/",
    )
    command.setting("out", "DIR", "where to write (the first path's folder)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Print the table and write it, with a plot and a page. Returns the exit status."""
    if not given.words:
        raise UserError("report needs at least one path: metarun report outputs/")
    if not all(path.strip() for path in given.words):
        raise UserError("report: a path is empty (an unset variable of the shell?)")
    from metarun.files import user_path, write_text
    from metarun.results import curves, index, tables
    from metarun.results.axes import save
    from metarun.results.result_file import find

    results = find([user_path(path) for path in given.words])
    rows = tables.rows(results)
    first = user_path(given.words[0])
    out = user_path(given.out) if given.out else first if first.is_dir() else first.parent
    require_folder(out)
    index.require_ours(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "table.md", tables.markdown(rows))
    write_text(out / "table.csv", tables.comma_separated(rows))
    print(f"{tables.grid(rows).shown({'algo', tables.RESULT}, str(out / 'table.md'))}\n\n{tables.NOTE}\n")
    lines = tables.by_steps(results)
    save(curves.comparison(lines), out / "table.png")
    written = f"{out / 'table.md'}, .csv and .png"
    try:
        write_text(out / index.NAME, index.text(rows, out, ", ".join(given.words), lines))
        written += f", and {out / index.NAME}"
    except (UserError, OSError):
        raise
    except Exception as error:  # of whatever kind: the tables are right without it
        warnings.warn(f"{index.NAME}: not written ({first_line(error)})", stacklevel=2)
    print(f"written: {written}")
    return 0
