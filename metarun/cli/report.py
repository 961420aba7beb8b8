"""``metarun report``: write one table of many runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from metarun.cli.parser import Parser, require_folder
from metarun.engine.ranks import Ranks
from metarun.errors import UserError


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "report",
        usage="metarun report PATH [PATH ...] [out=DIR]",
        description="One table of every finished run and evaluation under the paths, to the terminal and to table.md\n"
        "and table.csv in DIR, and as a plot against inner steps, table.png. Runs that differ only in seed are merged.",
        epilog="  metarun report outputs/",
    )
    command.setting("out", "DIR", "where to write (the first path's folder)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Print the table and write it, with a plot. Returns the exit status."""
    if not given.words:
        raise UserError("report needs at least one path: metarun report outputs/")
    if not all(path.strip() for path in given.words):
        raise UserError("report: a path is empty (an unset variable of the shell?)")
    from metarun.files import user_path, write_text
    from metarun.results import curves, tables
    from metarun.results.axes import save
    from metarun.results.result_file import find

    results = find([user_path(path) for path in given.words])
    rows = tables.rows(results)
    first = user_path(given.words[0])
    out = user_path(given.out) if given.out else first if first.is_dir() else first.parent
    require_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    text = tables.markdown(rows)
    write_text(out / "table.md", text)
    write_text(out / "table.csv", tables.comma_separated(rows))
    save(curves.comparison(tables.by_steps(results)), out / "table.png")
    print(text)
    print(f"written: {out / 'table.md'}, .csv and .png")
    return 0
