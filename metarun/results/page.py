"""``report.md``, the page of one run: its result, figures, protocol and configuration."""

from __future__ import annotations

from pathlib import Path

from metarun.files import write_text
from metarun.results.result import Result, norm_in_words

NAME = "report.md"
CAPTIONS = {
    "curves.png": "Training and validation against meta-iterations",
    "outer.png": "The outer step and the policies in meta-training",
    "steps.png": "Meta-test against inner steps",
    "step_sizes.png": "Meta-learned step sizes",
    "episodes.png": "Test tasks: support, and queries framed green where right, red with the label given where wrong",
    "points.png": "Test tasks before and after adapting: support points as triangles, queries ringed green where "
    "right, red where wrong, and the borders between the classes as far as the queries tell",
    "paths.png": "Test tasks: episodes before and after adapting, from the dot, with their mean "
    "return; the star is the goal",
    "traces.png": "Test tasks: episodes before and after adapting, and what the task asks for, with their mean return",
    "sinusoid.png": "Test tasks: true function, support points, and the fit before and after adapting",
}


def summary(result: Result) -> str:
    """Return one line for each norm: the test metric with its protocol."""
    protocol, metric = result.protocol, result.metric
    return "\n".join(
        f"meta-test {metric.name}: {score.estimate.text(metric)}  "
        f"({protocol['task']}, {score.estimate.tasks} tasks, 95 % interval over tasks, "
        f"norm {norm_in_words(score.norm)}, {protocol['test_steps']} inner steps, split {protocol['split']})"
        for score in result.scores
    )


def _row(*cells: object) -> str:
    """Format a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def write(out: Path, result: Result) -> None:
    """Write ``report.md`` of one run into ``out``, with the figures that are there already."""
    names, metric, selected = result.names, result.metric, result.selected
    norms = [norm_in_words(score.norm) for score in result.scores]
    lines = [f"# {names['algo']} on {names['dataset']}, {result.protocol['task']}, seed {result.seed}", ""]
    beside = list(result.scores[-1].by_steps[-1].beside)
    lines += [_row("norm", f"meta-test {metric.name}", "tasks", *beside), "|---" * (3 + len(beside)) + "|"]
    for norm, score in zip(norms, result.scores, strict=True):
        more = (f"{value:.4g}" for value in score.by_steps[-1].beside.values())
        lines.append(_row(norm, score.estimate.text(metric), score.estimate.tasks, *more))
    lines += ["", "± is the 95 % interval over test tasks, 1.96 s / sqrt(n).", ""]
    if result.yardsticks:
        known = "; ".join(f"{name} {of.text(metric)}" for name, of in result.yardsticks.items())
        lines += [f"On the same tasks: {known}.", ""]
    if any(row.estimate.diverged for score in result.scores for row in score.by_steps):
        why = "A task diverged where its outputs or its loss are not finite"
        lines += [f"{why}; it counts as {metric.worst_in_words}.", ""]
    validation = selected.validation
    tested = f"Selected on validation: {validation.text(metric)}" if validation else f"Tested: {selected.rule}"
    lines += [f"{tested}, {selected.when(result.trained, result.stopped_early)}.", ""]
    for picture, caption in CAPTIONS.items():
        if (out / picture).exists():
            lines += [f"![{caption}]({picture})", "", f"{caption}.", ""]
    lines += ["## By inner steps", "", _row("steps", *norms, *beside), "|---" * (len(norms) + len(beside) + 1) + "|"]
    for rows in zip(*(score.by_steps for score in result.scores), strict=True):
        more = (f"{value:.4g}" for value in rows[-1].beside.values())
        lines.append(_row(rows[0].steps, *(row.estimate.text(metric) for row in rows), *more))
    facts = {
        **result.protocol,
        "config": result.config_hash,
        "code": f"{result.code['version']} {result.code['commit'] or ''}".strip(),
        **result.libraries,
        "device": result.device,
        "training": f"{result.train_seconds:.0f} s"
        + (f", {result.tasks_per_s:.0f} tasks/s" if result.tasks_per_s else ""),
        "testing": f"{result.test_seconds:.0f} s",
    }
    lines += [
        "",
        "## Protocol",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in facts.items()),
        "",
    ]
    settings = [f"{key} = {value}" for key, value in result.config.items()]
    lines += ["## Configuration", "", "```", *settings, "```", ""]
    write_text(out / NAME, "\n".join(lines))
