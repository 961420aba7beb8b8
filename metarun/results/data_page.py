"""``index.html`` of ``metarun data show``: what a data set is, with pictures of its classes and tasks."""

from __future__ import annotations

from dataclasses import dataclass

from metarun.results import web
from metarun.results.grid import Grid
from metarun.results.web import escaped

NAME = "index.html"


@dataclass(frozen=True)
class Pictured:
    """A picture on the page.

    Attributes:
        title: heading above it.
        caption: what it shows.
        png: content of its PNG file.
    """

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Sheet:
    """What the page says.

    Attributes:
        title: name of the data set and what it is.
        facts: name -> what is known of it.
        splits: sizes of the splits.
        pictures: the pictures, in order.
        classes: sizes of all classes; None: they are not listed.
    """

    title: str
    facts: dict[str, str]
    splits: Grid
    pictures: list[Pictured]
    classes: Grid | None


def text(sheet: Sheet) -> str:
    """Make the page, one file that asks the network for nothing."""
    facts = "\n".join(
        f"<div><dt>{escaped(key)}</dt><dd>{escaped(value)}</dd></div>" for key, value in sheet.facts.items()
    )
    body = [f"<header><h1>{escaped(sheet.title)}</h1></header>", "<main>", f'<dl class="facts">{facts}</dl>']
    if sheet.splits.rows:
        body += ["<h2>Splits</h2>", web.table(sheet.splits, "sizes of the splits")]
    for of in sheet.pictures:
        image = web.scrolling(web.picture(of.png, of.caption), of.caption)
        body.append(f"<h2>{escaped(of.title)}</h2>")
        body.append(f'<figure class="wide">{image}<figcaption>{escaped(of.caption)}.</figcaption></figure>')
    if sheet.classes:
        body += ["<h2>All classes</h2>", web.table(sheet.classes, "sizes of all classes", "sortable")]
    return web.document(sheet.title, [*body, "</main>"])
