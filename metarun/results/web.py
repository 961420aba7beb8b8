"""Parts of a page for the browser: one file that asks the network for nothing and takes no text for HTML."""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path

from metarun.errors import one_line
from metarun.results.grid import Grid

MADE_BY = '<meta name="generator" content="metarun">'
LARGE = 400_000  # characters of a plot as SVG; a larger one is no smaller than its PNG, and slow to show
HERE = Path(__file__).parent


class Html(str):
    """Text that is HTML already; all other text is escaped."""

    __slots__ = ()


def escaped(text: object) -> Html:
    """Return text as HTML that shows it as it is, its control characters as in a Python string."""
    return text if isinstance(text, Html) else Html(html.escape(one_line(str(text))))


def document(title: str, body: list[str]) -> str:
    """Make a page. The browser is told to run its own script, to use its own style, and to load nothing else.

    Args:
        title: of the window.
        body: parts, as HTML.
    """
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        MADE_BY,
        '<link rel="icon" href="data:,">',  # or browsers ask a server for one
        f"<title>{escaped(title)}</title>",
        f"<style>{style}</style>",
    ]
    parts = ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body]
    return "\n".join([*parts, f"<script>{script}</script>", "</body>", "</html>", ""])


def _digest(source: str) -> str:
    """Return the source of a style or script as a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def table(grid: Grid, about: str, kind: str = "", head: int = 0) -> Html:
    """Make a table that scrolls in its own box where it is too wide.

    Args:
        grid: the table; cells may be ``Html``.
        about: what it shows, for those who cannot see it.
        kind: classes for the style and the script.
        head: number of the column that names the row.
    """
    titles = "".join(f'<th scope="col">{escaped(title)}</th>' if title else "<td></td>" for title in grid.titles)
    rows = [
        "".join(
            f'<th scope="row">{escaped(cell)}</th>' if i == head else f"<td>{escaped(cell)}</td>"
            for i, cell in enumerate(cells)
        )
        for cells in grid.rows
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    top = f'<table class="{kind}"><caption>{escaped(about)}</caption><thead><tr>{titles}</tr></thead>'
    return scrolling(f"{top}\n<tbody>\n{body}\n</tbody></table>", about)


def scrolling(content: str, about: str) -> Html:
    """Put what may be wide, as HTML, into a box that scrolls, by keyboard too."""
    return Html(f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(about)}">{content}</div>')


def code(text: str, name: str, kind: str = "") -> Html:
    """Show text as it is, with a button that copies it. Where there is no script, there is no button.

    Args:
        text: the text.
        name: what it is, for the button.
        kind: class for the style.
    """
    button = f'<button type="button" class="copy" aria-live="polite" hidden>Copy {escaped(name)}</button>'
    lines = "\n".join(escaped(line) for line in text.split("\n"))
    return Html(f'<div class="code {kind}">{button}{scrolling(f"<pre><code>{lines}</code></pre>", name)}</div>')


def picture(png: bytes, alt: str, kind: str = "") -> Html:
    """Show a PNG, which becomes a part of the page.

    Args:
        png: content of the file.
        alt: what it shows, for those who cannot see it.
        kind: class for the style.
    """
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Html(f'<img class="{kind}" src="{source}" alt="{escaped(alt)}">')
