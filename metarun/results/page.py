"""``report.md``, the page of one run: its result, pictures, protocol and configuration."""

from __future__ import annotations

from pathlib import Path

from metarun.errors import UserError
from metarun.files import write_atomic
from metarun.results import tables
from metarun.results.result import Result

NAME = "report.md"
CAPTIONS = {
    "curves.png": "Training and validation against meta-iterations",
    "steps.png": "Meta-test against inner steps",
    "step_sizes.png": "Meta-learned step sizes",
    "episodes.png": "Test tasks: support, and queries framed green where right, red with the label given where wrong",
    "points.png": "Test tasks before and after adapting: support points as triangles, queries ringed green where "
    "right, red where wrong, and the borders between the classes as far as the queries tell",
    "sinusoid.png": "Test tasks: true function, support points, and the fit before and after adapting",
}


def summary(result: Result) -> str:
    """One line for each norm: the test figure with its protocol."""
    protocol = result["protocol"]
    return "\n".join(
        f"meta-test {result['metric']}: {tables.figure(result['metric'], score)}  "
        f"({protocol['task']}, {score['tasks']} tasks, 95 % interval over tasks, norm {score['norm']}, "
        f"{protocol['test_steps']} inner steps, split {protocol['split']})"
        for score in result["scores"]
    )


def write(out: Path, result: Result) -> None:
    """``report.md`` of one run, with the plots that lie beside it.

    Raises ``UserError`` for a result that lacks a part.
    """
    try:
        text = _text(out, result)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # read from a file that somebody else wrote
        raise UserError(f"{out / 'result.json'}: not what metarun writes ({type(error).__name__}: {error})") from error
    write_atomic(out / NAME, text.encode())


def _text(out: Path, result: Result) -> str:
    names, metric = result["names"], result["metric"]
    lines = [f"# {names['algo']} on {names['dataset']}, {result['protocol']['task']}, seed {result['seed']}", ""]
    lines += [f"| norm | meta-test {metric} | tasks |", "|---|---|---|"]
    for score in result["scores"]:
        lines.append(f"| {score['norm']} | {tables.figure(metric, score)} | {score['tasks']} |")
    lines += ["", "± is the 95 % interval over test tasks, 1.96 s / sqrt(n).", ""]
    if any(row.get("diverged") for score in result["scores"] for row in score["by_steps"]):
        worst = "accuracy 0" if metric == "accuracy" else "an infinite error"
        lines += [f"A task diverged where its outputs or its loss are not finite; it counts as {worst}.", ""]
    rule, _, step = result["protocol"]["selection"].partition(", ")
    validation = result["selected"]["validation"]
    tested = f"Selected on validation: {tables.figure(metric, validation)}" if validation else f"Tested: {rule}"
    lines += [f"{tested}, {step}.", ""]
    for picture, caption in CAPTIONS.items():
        if (out / picture).exists():
            lines += [f"![{caption}]({picture})", "", f"{caption}.", ""]
    norms = [score["norm"] for score in result["scores"]]
    lines += ["## By inner steps", "", f"| steps | {' | '.join(norms)} |", "|---" * (len(norms) + 1) + "|"]
    for rows in zip(*(score["by_steps"] for score in result["scores"]), strict=True):
        of = zip(rows, result["scores"], strict=True)
        cells = " | ".join(tables.figure(metric, {**row, "tasks": score["tasks"]}) for row, score in of)
        lines.append(f"| {rows[0]['steps']} | {cells} |")
    facts = {
        **result["protocol"],
        "config": result["config_hash"],
        "code": f"{result['code']['version']} {result['code']['commit'] or ''}".strip(),
        **result["libraries"],
        "device": result["device"],
        "training": f"{result['train_seconds']:.0f} s"
        + (f", {result['tasks_per_s']:.0f} tasks/s" if result["tasks_per_s"] else ""),
        "testing": f"{result['test_seconds']:.0f} s",
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
    settings = [f"{key} = {value}" for key, value in result["config"].items()]
    lines += ["## Configuration", "", "```", *settings, "```", ""]
    return "\n".join(lines)
