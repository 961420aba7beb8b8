"""What the report of one run says, in whichever file: Markdown (page.py) or HTML (web_page.py)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarun.results.grid import Grid
from metarun.results.result import Result

EXAMPLES = "examples.png"
CURVES = {
    "curves.png": "Training and validation against meta-iterations",
    "outer.png": "The outer step and the policies in meta-training",
    "steps.png": "Meta-test against inner steps",
    "step_sizes.png": "Meta-learned step sizes",
}
TASKS = {
    EXAMPLES: "What the run trains on: images of its first meta-training tasks",
    "episodes.png": "Test tasks: support, and queries framed green where right, red with the label given where wrong",
    "points.png": "Test tasks before and after adapting: support points as triangles, queries ringed green where "
    "right, red where wrong, and the borders between the classes as far as the queries tell",
    "paths.png": "Test tasks: episodes before and after adapting, from the dot, with their mean "
    "return; the star is the goal",
    "traces.png": "Test tasks: episodes before and after adapting, and what the task asks for, with their mean return",
    "fit.png": "Test tasks: predicted against true values of the queries, before and after adapting; on the line they "
    "are equal",
    "sinusoid.png": "Test tasks: true function, support points, and the fit before and after adapting",
}
CAPTIONS = CURVES | TASKS


@dataclass(frozen=True, kw_only=True)
class Report:
    """The parts of a report, as text.

    Attributes:
        title: one line.
        scores: norm, metric after the last inner step, tasks, and what was measured beside the metric.
        notes: sentences without which the scores cannot be read.
        command: what was typed, for a shell; empty: it is not known.
        pictures: file -> caption of the figures that are there.
        by_steps: the metric after each number of inner steps.
        protocol: fact -> value.
        configuration: every setting that affects the result, as key = value.
    """

    title: str
    scores: Grid
    notes: list[str]
    command: str
    pictures: dict[str, str]
    by_steps: Grid
    protocol: dict[str, str]
    configuration: list[str]

    @staticmethod
    def of(result: Result, out: Path, command: list[str]) -> Report:
        """Make the report of a result.

        Args:
            result: the result.
            out: the folder with its figures.
            command: the words that were typed after ``metarun``; empty: they are not known.
        """
        return Report(
            title=headline(result),
            scores=_scores(result),
            notes=_notes(result),
            command=shlex.join(["metarun", *command]) if command else "",
            pictures={name: caption for name, caption in CAPTIONS.items() if (out / name).exists()},
            by_steps=_by_steps(result),
            protocol=_protocol(result),
            configuration=[f"{key} = {value}" for key, value in result.config.items()],
        )


def headline(result: Result) -> str:
    """Return the title of a run's report and figures."""
    return f"{result.names['algo']} on {result.names['dataset']}, {result.protocol['task']}, seed {result.seed}"


def summary(result: Result) -> str:
    """Return one line for each norm: the test metric with its protocol."""
    protocol, metric = result.protocol, result.metric
    return "\n".join(
        f"meta-test {metric.name}: {score.estimate.text(metric)}  "
        f"({protocol['task']}, {score.estimate.tasks} tasks, 95 % interval over tasks, "
        f"norm {score.label}, {protocol['test_steps']} inner steps, split {protocol['split']})"
        for score in result.scores
    )


def _scores(result: Result) -> Grid:
    beside = list(result.scores[-1].by_steps[-1].beside)
    rows = [
        [
            score.label,
            score.estimate.text(result.metric),
            str(score.estimate.tasks),
            *_rounded(score.by_steps[-1].beside),
        ]
        for score in result.scores
    ]
    return Grid(["norm", f"meta-test {result.metric.name}", "tasks", *beside], rows)


def _by_steps(result: Result) -> Grid:
    norms = [score.label for score in result.scores]
    rows = [
        [str(of[0].steps), *(row.estimate.text(result.metric) for row in of), *_rounded(of[-1].beside)]
        for of in zip(*(score.by_steps for score in result.scores), strict=True)
    ]
    return Grid(["steps", *norms, *result.scores[-1].by_steps[-1].beside], rows)


def _rounded(beside: dict[str, float]) -> list[str]:
    return [f"{value:.4g}" for value in beside.values()]


def _notes(result: Result) -> list[str]:
    metric, selected = result.metric, result.selected
    notes = ["± is the 95 % interval over test tasks, 1.96 s / sqrt(n)."]
    if result.yardsticks:
        known = "; ".join(f"{name} {of.text(metric)}" for name, of in result.yardsticks.items())
        notes.append(f"On the same tasks: {known}.")
    if any(row.estimate.diverged for score in result.scores for row in score.by_steps):
        why = "A task diverged where its outputs or its loss are not finite"
        notes.append(f"{why}; it counts as {metric.worst_in_words}.")
    validation = selected.validation
    tested = f"Selected on validation: {validation.text(metric)}" if validation else f"Tested: {selected.rule}"
    return [*notes, f"{tested}, {selected.when(result.trained, result.stopped_early)}."]


def _protocol(result: Result) -> dict[str, str]:
    speed = f", {result.tasks_per_s:.0f} tasks/s" if result.tasks_per_s else ""
    facts: dict[str, Any] = {
        **result.protocol,
        "config": result.config_hash,
        "code": f"{result.code['version']} {result.code['commit'] or ''}".strip(),
        **result.libraries,
        "device": result.device,
        "training": f"{result.train_seconds:.0f} s{speed}",
        "testing": f"{result.test_seconds:.0f} s",
    }
    return {key: str(value) for key, value in facts.items()}
