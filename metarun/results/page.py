"""The report of one run as files: ``report.html`` and, last, ``report.md``, with which the run is complete."""

from __future__ import annotations

import warnings
from pathlib import Path

from metarun.errors import first_line
from metarun.files import write_text
from metarun.results import web_page
from metarun.results.grid import Grid
from metarun.results.report import Report
from metarun.results.result import Result

NAME, WEB = "report.md", "report.html"


def write(out: Path, result: Result, command: list[str], drawn: dict[str, list[str]]) -> None:
    """Write the report of one run into ``out``, with the figures that are there already.

    A page for the browser that cannot be made is a warning.

    Args:
        out: the folder of the run or evaluation.
        result: its result.
        command: the words that were typed after ``metarun``; empty: they are not known.
        drawn: figure's file -> its panels as SVG, for the page; other figures are taken as they are.
    """
    report = Report.of(result, out, command)
    try:
        write_text(out / WEB, web_page.text(report, out, drawn))
    except Exception as error:  # of whatever kind: the numbers are right without it
        warnings.warn(f"{WEB}: not written ({first_line(error)})", stacklevel=2)
    write_text(out / NAME, markdown(report))


def markdown(report: Report) -> str:
    """Format a report as Markdown."""
    lines = [f"# {report.title}", "", report.scores.markdown(), ""]
    for note in report.notes:
        lines += [note, ""]
    for picture, caption in report.pictures.items():
        lines += [f"![{caption}]({picture})", "", f"{caption}.", ""]
    lines += ["## By inner steps", "", report.by_steps.markdown(), ""]
    lines += ["## Protocol", "", Grid(["", ""], [list(fact) for fact in report.protocol.items()]).markdown(), ""]
    if report.command:
        lines += ["## Command", "", "```", report.command, "```", ""]
    lines += ["## Configuration", "", "```", *report.configuration, "```", ""]
    return "\n".join(lines)
