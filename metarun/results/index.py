"""``index.html``: the table of many runs as a page, with their pictures and links to their reports."""

from __future__ import annotations

import io
import os
import urllib.parse
from pathlib import Path

from PIL import Image, ImageFilter

from metarun.errors import UserError
from metarun.files import read_file
from metarun.results import curves, page, svg, web
from metarun.results.grid import Grid
from metarun.results.report import CAPTIONS, headline
from metarun.results.result import Result
from metarun.results.tables import NOTE, Line, Row, grid
from metarun.results.web import Html, escaped

NAME = "index.html"
THUMB = (320, 200)  # pixels, of a picture that is shown at half this size


def require_ours(out: Path) -> None:
    """Raise ``UserError`` if the folder has an ``index.html`` that metarun did not write."""
    there = read_file(out / NAME)
    if there is not None and web.MADE_BY.encode() not in there[:4000]:
        raise UserError(f"out={out}: its {NAME} was not written by metarun; choose another folder")


def text(table: list[Row], out: Path, about: str, lines: list[Line]) -> str:
    """Make the page.

    Args:
        table: the rows.
        out: the folder that the page is for; links and pictures are found from there.
        about: what the runs are, for the title.
        lines: the metric against inner steps, for the plots.
    """
    shown = grid(table)
    rows = [[_reports(row, out), *cells] for row, cells in zip(table, shown.rows, strict=True)]
    title = f"Results under {about}"
    body = [
        f"<header><h1>{escaped(title)}</h1></header>",
        "<main>",
        '<p class="filter" hidden><label>Show rows with these words: <input type="search" spellcheck="false"></label>',
        '<output role="status"></output></p>',
        web.table(Grid(["", *shown.titles], rows), title, "sortable results", head=1),
        f'<ul class="notes"><li>{escaped(NOTE)}</li><li>Runs that differ only in seed are one row. The same table is '
        "in table.md, and with all digits in table.csv.</li></ul>",
    ]
    body += ["<h2>Against inner steps</h2>", *_plots(lines)] if lines else []
    return web.document(title, [*body, "</main>"])


def _plots(lines: list[Line]) -> list[str]:
    """Plot each panel by itself."""
    panels = dict.fromkeys(line.panel for line in lines)
    apart = [curves.comparison([line for line in lines if line.panel == panel]) for panel in panels]
    plots = [svg.inline(figure, f"plot{i}") for i, figure in enumerate(apart)]
    if sum(map(len, plots)) > web.LARGE:
        return ['<p>The plots of so many runs are in <a href="table.png">table.png</a>.</p>']
    boxes = [f'<div class="panel comparison">{web.scrolling(plot, "Plot")}</div>' for plot in plots]
    return ['<div class="comparisons">', *boxes, "</div>"]


def _reports(row: Row, out: Path) -> Html:
    """Show a picture of a row's first run, and link the report of each of its runs."""
    runs = sorted(row.runs, key=lambda run: run.seed)
    return Html(f"{_thumbnail(runs[0])}{', '.join(_link(row, run, out) for run in runs)}")


def _link(row: Row, run: Result, out: Path) -> Html:
    """Link the report of one run of a row; its own metric is shown over the link."""
    report, name = _report(run), escaped(f"seed {run.seed}")
    if report is None:
        return name
    own = next(score.estimate for score in run.scores if (score.norm, score.ensemble) == (row.norm, row.ensemble))
    said = escaped(own.text(run.metric))
    return Html(f'<a href="{_address(report, out)}" title="{said}" aria-label="{name}: {said}">{name}</a>')


def _thumbnail(run: Result) -> Html:
    """Make a small picture of a run's curves, or else of its tasks; nothing where there is none."""
    for name, caption in CAPTIONS.items():
        try:
            content = read_file(run.folder / name) if run.folder else None
            if content is None:
                continue
            with Image.open(io.BytesIO(content)) as image:
                small = image.convert("RGB").filter(ImageFilter.MinFilter(3))  # or thin lines would fade
                small.thumbnail(THUMB)
                packed = io.BytesIO()
                small.quantize(64).save(packed, "PNG", optimize=True)
        except Exception:  # a damaged picture, of which Pillow has many kinds of error
            continue
        return web.picture(packed.getvalue(), f"{caption}: {headline(run)}", "thumb")
    return Html("")


def _report(run: Result) -> Path | None:
    """Return the page of a run, or the Markdown of an older one; None if there is neither."""
    names = [run.folder / name for name in (page.WEB, page.NAME)] if run.folder else []
    return next((path for path in names if path.is_file()), None)


def _address(path: Path, out: Path) -> Html:
    """Return the address of a file as seen from the page."""
    relative = os.path.relpath(path, out)
    return escaped(urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/"))))
