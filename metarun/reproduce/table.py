"""Ours beside the published numbers, with a verdict for each: a table in Markdown and CSV, and a plot."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from metarun.core.intervals import over_seeds
from metarun.files import write_atomic
from metarun.progress import progress_bar
from metarun.reproduce.cells import RESULTS, cells, finished, published, results
from metarun.reproduce.verdict import Verdict
from metarun.results import curves, tables
from metarun.results.result import Result
from metarun.runs.experiment import Experiment
from metarun.runs.recipe import Reference

NAME = "RESULTS"


@dataclass(frozen=True)
class Row:
    """One published number beside ours; accuracies 0..1, nan where there is nothing."""

    cell: str
    norm: str
    steps: int
    tasks: int
    query: int
    split: str
    selection: str
    budget: float
    seeds: int
    metric: str
    mean: float
    ci95: float  # over tasks of one run (root mean square over the seeds)
    sd_seeds: float
    diverged: int  # test tasks, over all seeds
    published: float
    published_ci: float
    published_ci_of: str
    difference: float
    verdict: str
    source: str
    confirmed: bool


def rows(out: Path, cell: str) -> list[Row]:
    """A row for each published number of a cell: the runs with the largest budget, merged over their seeds."""
    experiment, _ = published(cell)
    assert experiment.recipe is not None
    done = results(out, cell)
    budget = max((result["recipe"]["budget"] for result in done), default=math.nan)
    runs = [result for result in done if result["recipe"]["budget"] == budget]
    references: list[Reference | None] = [*experiment.recipe.reference] or [None]
    return [_row(cell, experiment, runs, budget, reference) for reference in references]


def _row(cell: str, x: Experiment, runs: list[Result], budget: float, reference: Reference | None) -> Row:
    steps = reference.steps if reference else x.algo.eval_inner_steps
    norm = reference.norm.name if reference and reference.norm else ""
    scores = [_score(run, norm, steps) for run in runs]
    mean, interval, spread = over_seeds([(score["mean"], score["ci95"]) for score in scores])
    metric = runs[0]["metric"] if runs else "accuracy" if x.dataset.has_way else "mse"
    protocol = runs[0]["protocol"] if runs else {}
    if not runs:
        verdict = Verdict.not_run
    elif reference is None:
        verdict = Verdict.no_number
    else:
        verdict = Verdict.of(reference, mean, interval, budget, larger_is_better=metric == "accuracy")
    value = reference.value if reference else math.nan
    return Row(
        cell=cell,
        norm=scores[0]["norm"].split(" (")[0] if scores else norm,
        steps=steps,
        tasks=x.eval.tasks,
        query=x.eval.query,
        split=protocol.get("split", ""),
        selection=protocol.get("selection", "").split(",")[0],
        budget=budget,
        seeds=len(runs),
        metric=metric,
        mean=mean,
        ci95=interval,
        sd_seeds=spread,
        diverged=sum(score["diverged"] for score in scores),
        published=value,
        published_ci=(reference and reference.interval) or math.nan,
        published_ci_of=reference.interval_of if reference else "",
        difference=mean - value,
        verdict=verdict.value,
        source=reference.source if reference else "",
        confirmed=bool(reference and reference.confirmed),
    )


def _score(result: Result, norm: str, steps: int) -> dict[str, Any]:
    """{"norm", "mean", "ci95", "diverged"} of a result after so many inner steps, with batch norm as asked."""
    score = next(score for score in result["scores"] if norm in ("", score["norm"]))
    at = next(row for row in score["by_steps"] if row["steps"] == steps)
    return {"norm": score["norm"], "mean": at["mean"], "ci95": at["ci95"], "diverged": at.get("diverged", 0)}


def write(out: Path, asked: list[str]) -> str:
    """RESULTS.md, .csv and .png in ``out``, of the cells asked for and of all that have results; returns the table of
    those asked for as Markdown."""
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
        *(["## What was looked into\n", *notes] if notes else []),
        _sources(covered),
    ]
    write_atomic(out / f"{NAME}.md", "\n".join(whole).encode())
    write_atomic(out / f"{NAME}.csv", comma_separated(table).encode())
    curves.save(curves.reproduction([asdict(row) for row in table if row.seeds]), out / f"{NAME}.png")
    return markdown([row for row in table if row.cell in asked])


def _note(out: Path, cell: str) -> Path:
    """What was tried where a cell missed its number, written by hand beside the results."""
    return out / RESULTS / f"{cell}.md"


TITLES = "cell | norm | steps | tasks | query | split | selection | budget | seeds | ours | published | difference"
LEGEND = f"""\
± of ours is the 95 % interval over test tasks, 1.96 s / sqrt(n), of one run; what the published ± is, stands below.
Steps: inner steps at test. Query: query examples per class at test. Budget: share of the published training length.

Verdicts. {" ".join((Verdict.__doc__ or "").split())}
"""


def markdown(table: list[Row]) -> str:
    """The rows as a Markdown table, accuracies in percent, with the rules behind the verdicts."""
    lines = [f"| {TITLES} | verdict |", "|---" * (TITLES.count("|") + 2) + "|"]
    for row in table:
        percent = row.metric == "accuracy"
        ours = tables.figure(row.metric, {**asdict(row), "tasks": row.seeds * row.tasks}) if row.seeds else ""
        published = "" if math.isnan(row.published) else _published(row)
        apart = 100 * row.difference if percent else row.difference
        spread = "" if math.isnan(row.sd_seeds) else f" (sd {tables.amount(row.metric, row.sd_seeds)})"
        texts = (
            row.cell,
            row.norm,
            row.steps,
            row.tasks,
            row.query,
            row.split,
            row.selection,
            "" if math.isnan(row.budget) else f"{row.budget:g}",
            f"{row.seeds}{spread}" if row.seeds else "",
            ours,
            published,
            "" if math.isnan(apart) else f"{apart:+.{2 if percent else 3}f}",
            row.verdict,
        )
        lines.append("| " + " | ".join(map(str, texts)) + " |")
    return "\n".join([*lines, "", LEGEND])


def _published(row: Row) -> str:
    interval = None if math.isnan(row.published_ci) else row.published_ci
    return tables.amount(row.metric, row.published, interval) + ("" if row.confirmed else " (second hand)")


def _sources(chosen: list[str]) -> str:
    """Where each published number comes from, what its ± means, and the band that also counts."""
    lines = ["## Published numbers\n"]
    for cell in chosen:
        recipe = published(cell)[0].recipe
        for r in recipe.reference if recipe else []:
            norm = f"{r.norm.name}, " if r.norm else ""
            said = f"± {r.interval:g} is {r.interval_of}" if r.interval else "no interval published"
            hand = "" if r.confirmed else ", quoted by others, original not read"
            tasks = f"{r.tasks} test tasks" if r.tasks else "number of test tasks not known"
            band = f"; {r.band[0]:g} to {r.band[1]:g} also counts as reproduced: {r.band_reason}" if r.band else ""
            lines.append(f"- {cell}, {norm}{r.steps} steps: {r.value:g}, {said}; {r.source}{hand}; {tasks}{band}.")
    return "\n".join([*lines, ""])


def comma_separated(table: list[Row]) -> str:
    """The rows as CSV, numbers unrounded."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in table)
    return buffer.getvalue()
