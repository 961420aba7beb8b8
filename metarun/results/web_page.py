"""``report.html``, the report of one run as a page for the browser."""

from __future__ import annotations

from pathlib import Path

from metarun.files import read_file
from metarun.results import web
from metarun.results.report import CURVES, Report
from metarun.results.web import escaped

SCROLLS = ("step_sizes.png",)  # has long names, which would be too small to read on a telephone


def text(report: Report, out: Path, drawn: dict[str, list[str]]) -> str:
    """Make the page.

    Args:
        report: what it says.
        out: the folder with the figures.
        drawn: figure's file -> its panels as SVG; other figures are taken from ``out``.
    """
    command = ["<h2>Command</h2>", web.code(report.command, "command")] if report.command else []
    body = [
        f"<header><h1>{escaped(report.title)}</h1></header>",
        "<main>",
        _cards(report),
        '<ul class="notes">',
        *(f"<li>{escaped(note)}</li>" for note in report.notes),
        "</ul>",
        *command,
        *_figures(report, out, drawn),
        "<h2>By inner steps</h2>",
        web.table(report.by_steps, f"{report.scores.titles[1]} by inner steps"),
        "<h2>Protocol</h2>",
        f'<dl class="facts">{_facts(report.protocol)}</dl>',
        "<h2>Configuration</h2>",
        web.code("\n".join(report.configuration), "configuration", "long"),
        "</main>",
    ]
    return web.document(report.title, body)


def _cards(report: Report) -> str:
    """Show the scores, one large number for each norm, each with its protocol."""
    shared = {"inner steps": report.protocol["test_steps"], "split": report.protocol["split"]}
    cards = []
    for row in report.scores.rows:
        told = dict(zip(report.scores.titles, row, strict=True))
        name = report.scores.titles[1]
        score = told.pop(name)
        facts = _facts({**told, **shared})
        cards.append(f'<li><p>{escaped(name)}</p><p class="score">{escaped(score)}</p><dl>{facts}</dl></li>')
    return "\n".join(['<ul class="cards">', *cards, "</ul>"])


def _facts(facts: dict[str, str]) -> str:
    return "\n".join(f"<div><dt>{escaped(key)}</dt><dd>{escaped(value)}</dd></div>" for key, value in facts.items())


def _figures(report: Report, out: Path, drawn: dict[str, list[str]]) -> list[str]:
    """Show the figures: curves side by side as far as there is room, pictures of tasks below each other."""
    curves, tasks = list[str](), list[str]()
    for name, caption in report.pictures.items():
        said = f"<figcaption>{escaped(caption)}.</figcaption>"
        if 0 < sum(map(len, drawn.get(name, []))) <= web.LARGE:
            within = [web.scrolling(of, caption) if name in SCROLLS else of for of in drawn[name]]
            panels = "".join(f'<div class="panel">{panel}</div>' for panel in within)
            kind = f"of{min(3, len(drawn[name]))} {Path(name).stem}"
            curves.append(f'<figure class="{kind}"><div class="panels">{panels}</div>{said}</figure>')
        else:
            image = web.picture(read_file(out / name) or b"", caption)
            of_what = curves if name in CURVES else tasks
            of_what.append(f'<figure class="wide">{web.scrolling(image, caption)}{said}</figure>')
    parts = ["<h2>Curves</h2>", '<div class="figures">', *curves, "</div>"] if curves else []
    return [*parts, *(["<h2>Tasks</h2>", *tasks] if tasks else [])]
