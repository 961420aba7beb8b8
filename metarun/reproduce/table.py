"""The page that compares published tables with our results, as Markdown and CSV, with its figure."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from metarun.files import write_text
from metarun.progress import progress_bar
from metarun.reproduce.cells import RESULTS, cells, finished, published
from metarun.reproduce.rows import Row, rows
from metarun.reproduce.verdict import RULES
from metarun.results.grid import Grid
from metarun.results.tables import named_beside

NAME = "RESULTS"


def write(out: Path, asked: list[str]) -> Grid:
    """Write RESULTS.md, .csv and .png in ``out``.

    Args:
        out: the command's folder.
        asked: the cells asked for; cells that have results are written too.

    Returns:
        The table of the cells asked for.

    Raises:
        UserError: a result file was changed, or does not fit its recipe.
    """
    from metarun.reproduce.plot import reproduction  # late: matplotlib, which --list does not need
    from metarun.results.axes import save

    covered = [cell for cell in cells("all") if cell in asked or finished(out, cell)]
    table: list[Row] = []
    for cell in progress_bar(covered, desc="table", unit="cell"):
        table += rows(out, cell)
    out.mkdir(parents=True, exist_ok=True)
    notes = [f"### {cell}\n\n{note.read_text().strip()}\n" for cell in covered if (note := _note(out, cell)).exists()]
    whole = [
        "# Published tables, rerun\n",
        "Written by `metarun reproduce`; not edited by hand. One line for each published number.\n",
        f"![Ours and published, with intervals]({NAME}.png)\n",
        markdown(table),
        *(["## What was investigated\n", *notes] if notes else []),
        _sources(covered),
    ]
    write_text(out / f"{NAME}.md", "\n".join(whole))
    write_text(out / f"{NAME}.csv", comma_separated(table))
    save(reproduction([row for row in table if row.seeds]), out / f"{NAME}.png")
    return grid([row for row in table if row.cell in asked])


def _note(out: Path, cell: str) -> Path:
    """Return the file, written by hand, on what was investigated where a cell misses the published result."""
    return out / RESULTS / f"{cell}.md"


TITLES = [
    *("cell", "norm", "steps", "tasks", "query", "split", "selection", "budget", "seeds"),
    *("ours", "± over", "published", "difference", "verdict"),
]
KEPT = {"cell", "ours", "published", "verdict"}  # columns that a narrow terminal shows too
LEGEND = f"""\
± of ours is a 95 % interval. "± over" says of what:

- tasks: over test tasks, 1.96 s / sqrt(n), of one run; it says nothing of how training varies. Of one or two seeds;
- seeds and tasks: also over seeds, from three on. sqrt(a^2 + b^2), where a is Student's t over the means of S seeds,
  t(S - 1) sd / sqrt(S), and b the interval over tasks of one run, which is not divided by sqrt(S), since all seeds are
  tested on the same tasks.

What the published ± means stands below.
Steps: inner steps at test. Query: query examples per class at test. Budget: share of the published training length.

{RULES}"""


def markdown(table: list[Row]) -> str:
    """Format the rows as a Markdown table, with the rules of the verdicts."""
    return f"{grid(table).markdown()}\n\n{LEGEND}"


def grid(table: list[Row]) -> Grid:
    """Return the cells of the table as texts, with rounded numbers."""
    beside = named_beside(row.beside for row in table)
    titles = [*TITLES[: TITLES.index("published")], *beside, *TITLES[TITLES.index("published") :]]
    lines: list[list[str]] = []
    for row in table:
        published = "" if math.isnan(row.published) else _published(row)
        spread = "" if math.isnan(row.sd_seeds) else f" (sd {row.metric.amount(row.sd_seeds)})"
        texts = (
            row.cell,
            row.norm_in_words,
            row.steps,
            row.tasks,
            row.query,
            row.split,
            row.selection,
            "" if math.isnan(row.budget) else f"{row.budget:g}",
            f"{row.seeds}{spread}" if row.seeds else "",
            row.ours.text(row.metric) if row.seeds else "",
            row.ci95_of,
            *(f"{row.beside[name]:.4g}" if name in row.beside else "" for name in beside),
            published,
            "" if math.isnan(row.difference) else row.metric.difference(row.difference),
            row.verdict.value,
        )
        lines.append([str(text) for text in texts])
    return Grid(titles, lines)


def _published(row: Row) -> str:
    interval = None if math.isnan(row.published_ci) else row.published_ci
    return row.metric.amount(row.published, interval) + ("" if row.confirmed else " (second hand)")


def _sources(chosen: list[str]) -> str:
    """List the source of each published number, what its ± means, and the band that also counts as reproduced."""
    lines = ["## Published numbers\n"]
    for cell in chosen:
        recipe = published(cell)[0].recipe
        for r in recipe.reference if recipe else []:
            norm = f"{r.norm.name}, " if r.norm else ""
            norm += f"ensemble of {r.ensemble}, " if r.ensemble > 1 else ""
            said = f"± {r.interval:g} is {r.interval_of}" if r.interval else "no interval published"
            hand = "" if r.confirmed else ", quoted by others, original not read"
            tasks = f"{r.tasks} test tasks" if r.tasks else "number of test tasks not known"
            band = f"; {r.band[0]:g} to {r.band[1]:g} also counts as reproduced: {r.band_reason}" if r.band else ""
            lines.append(f"- {cell}, {norm}{r.steps} steps: {r.value:g}, {said}; {r.source}{hand}; {tasks}{band}.")
    return "\n".join([*lines, ""])


def comma_separated(table: list[Row]) -> str:
    """Format the rows as CSV, with unrounded numbers."""
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in table for name in row.cells()))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells() for row in table)
    return buffer.getvalue()
