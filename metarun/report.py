"""Reports: one run's ``report.md``, and one table of any number of runs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

from metarun.errors import UserError
from metarun.files import read_file, write_atomic

NAME = "report.md"
CAPTIONS = {
    "curves.png": "Training and validation against meta-iterations",
    "steps.png": "Meta-test against inner steps",
    "step_sizes.png": "Meta-learned step sizes",
    "episodes.png": "Test tasks: support, and queries framed green where right, red where wrong",
    "points.png": "Test tasks before and after adapting: support points as triangles, queries ringed green where "
    "right, red where wrong, and the line where the output changes sign",
    "sinusoid.png": "Test tasks: true function, support points, and the fit before and after adapting",
}
Result = dict[str, Any]


def amount(metric: str, mean: float, half: float | None = None) -> str:
    """``98.70 ± 0.40 %`` or ``0.3812 ± 0.0300``; without ± where no interval is known."""
    percent = metric == "accuracy"
    numbers = [f"{100 * n:.2f}" if percent else f"{n:.4f}" for n in (mean, half) if n is not None]
    return " ± ".join(numbers) + (" %" if percent else "")


def summary(result: Result) -> str:
    """One line for each norm: the test figure with its protocol."""
    protocol = result["protocol"]
    return "\n".join(
        f"meta-test {result['metric']}: {amount(result['metric'], score['mean'], score['ci95'])}  "
        f"({protocol['task']}, {score['tasks']} tasks, 95 % interval over tasks, norm {score['norm']}, "
        f"{protocol['test_steps']} inner steps, split {protocol['split']})"
        for score in result["scores"]
    )


def write(out: Path, result: Result) -> None:
    """``report.md`` of one run, with the plots that lie beside it."""
    names, metric = result["names"], result["metric"]
    lines = [f"# {names['algo']} on {names['dataset']}, {result['protocol']['task']}, seed {result['seed']}", ""]
    lines += [f"| norm | meta-test {metric} | tasks |", "|---|---|---|"]
    for score in result["scores"]:
        lines.append(f"| {score['norm']} | {amount(metric, score['mean'], score['ci95'])} | {score['tasks']} |")
    lines += ["", "± is the 95 % interval over test tasks, 1.96 s / sqrt(n).", ""]
    validation = result["selected"]["validation"]
    if validation:
        lines += [f"Selected on validation: {amount(metric, validation['mean'], validation['ci95'])}.", ""]
    for picture, caption in CAPTIONS.items():
        if (out / picture).exists():
            lines += [f"![{caption}]({picture})", "", f"{caption}.", ""]
    norms = [score["norm"] for score in result["scores"]]
    lines += ["## By inner steps", "", f"| steps | {' | '.join(norms)} |", "|---" * (len(norms) + 1) + "|"]
    for rows in zip(*(score["by_steps"] for score in result["scores"]), strict=True):
        cells = " | ".join(amount(metric, row["mean"], row["ci95"]) for row in rows)
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
    write_atomic(out / NAME, "\n".join(lines).encode())


def sealed(result: Result) -> Result:
    """The result with a SHA-256 over its content, so that an edited file gives itself away."""
    content = {key: value for key, value in result.items() if key != "sha256"}
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def read(file: Path) -> Result:
    """One ``result.json``. Raises ``UserError`` for a file that is damaged or was changed after it was written."""
    try:
        result = json.loads(read_file(file) or b"")
        rows([result])
        whole = result["sha256"] == sealed(result)["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file}: damaged, or not written by metarun") from None
    if not whole:
        raise UserError(f"{file}: was changed after metarun wrote it (its sha256 does not fit)")
    return result


def find(paths: list[Path]) -> list[Result]:
    """Every ``result.json`` under the paths. Raises ``UserError`` for a path without one, and for a damaged one."""
    results = []
    for path in paths:
        files = sorted(path.rglob("result.json")) if path.is_dir() else [path] if path.exists() else []
        if not files:
            raise UserError(f"{path}: holds no finished run (no result.json)")
        results += [read(file) for file in files]
    return results


COLUMNS = (
    "algo",
    "dataset",
    "task",
    "split",
    "norm",
    "steps",
    "tasks",
    "seeds",
    "metric",
    "mean",
    "ci95_tasks",
    "sd_seeds",
)


def over_seeds(scores: list[tuple[float, float]]) -> tuple[float, float, float]:
    """(mean, 95 % interval over tasks) of each seed's run -> mean over seeds, root mean square of the intervals, and
    the standard deviation of the means; nan where there are too few."""
    n = len(scores)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = sum(m for m, _ in scores) / n
    spread = math.sqrt(sum((m - mean) ** 2 for m, _ in scores) / (n - 1)) if n > 1 else math.nan
    return mean, math.sqrt(sum(half**2 for _, half in scores) / n), spread


def _runs(results: list[Result]) -> list[list[tuple[Result, dict[str, Any]]]]:
    """The runs of each (configuration, norm) with their scores, one for each seed."""
    merged: dict[str, dict[int, tuple[Result, dict[str, Any]]]] = {}
    for result in _apart(_apart(results, "pool_sha256"), "data_sha256"):
        rest = {key: value for key, value in result["config"].items() if key != "seed"}
        for score in result["scores"]:
            identity = json.dumps([rest, result["protocol"]["split"], score["norm"], score["tasks"]], sort_keys=True)
            merged.setdefault(identity, {})[result["seed"]] = result, score
    return [list(by_seed.values()) for by_seed in merged.values()]


def _apart(results: list[Result], fact: str) -> list[Result]:
    """The same; where one configuration met data of different sums, its results say which behind the split's name."""
    met: dict[str, set[str]] = {}
    keys = [json.dumps({**result["config"], "seed": None}, sort_keys=True) for result in results]
    for key, result in zip(keys, results, strict=True):
        met.setdefault(key, set()).update(filter(None, [result.get("protocol", {}).get(fact)]))

    def told(result: Result) -> Result:
        protocol = result["protocol"]
        return {**result, "protocol": {**protocol, "split": f"{protocol['split']}, {fact} {protocol.get(fact)}"}}

    return [told(result) if len(met[key]) > 1 else result for key, result in zip(keys, results, strict=True)]


def _no_norm(norm: str) -> bool:
    """Whether a score is of a network without batch norm."""
    return norm.startswith("none")


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """One row for each (configuration, norm), the best first; runs that differ only in seed are merged.

    mean: over seeds. ci95_tasks: 95 % interval over tasks of one run (root mean square over the seeds). sd_seeds:
    standard deviation of the runs' means between seeds, nan for one seed.
    """
    table = []
    for runs in _runs(results):
        result, score = runs[0]
        mean, interval, spread = over_seeds([(s["mean"], s["ci95"]) for _, s in runs])
        values = (
            result["names"]["algo"],
            result["names"]["dataset"],
            result["protocol"]["task"],
            result["protocol"]["split"],
            score["norm"],
            result["protocol"]["test_steps"],
            score["tasks"],
            len(runs),
            result["metric"],
            mean,
            interval,
            spread,
        )
        table.append(dict(zip(COLUMNS, values, strict=True)))

    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        cost = -row["mean"] if row["metric"] == "accuracy" else row["mean"]
        return row["dataset"], row["task"], _no_norm(row["norm"]), row["norm"], math.isnan(cost), cost

    return sorted(table, key=order)


def by_steps(results: list[Result]) -> list[dict[str, Any]]:
    """One line of a plot for each (configuration, norm): metric against inner steps, mean over seeds.

    panel: what lines must share to be compared, the tasks and, where there is batch norm, its statistics. label: the
    method, with the settings that tell it from others of its name. steps, mean, ci95: lists.
    """
    lines = []
    for runs in _runs(results):
        result, score = runs[0]
        points = [
            over_seeds([(row["mean"], row["ci95"]) for row in rows])
            for rows in zip(*(s["by_steps"] for _, s in runs), strict=True)
        ]
        task = f"{result['names']['dataset']}, {result['protocol']['task']}"
        lines.append(
            {
                "tasks": f"{task}, {result['protocol']['split']}, {score['tasks']} tasks",
                "norm": score["norm"],
                "algo": result["names"]["algo"],
                "config": {key: value for key, value in result["config"].items() if key != "seed"},
                "metric": result["metric"],
                "steps": [row["steps"] for row in score["by_steps"]],
                "mean": [mean for mean, _, _ in points],
                "ci95": [half for _, half, _ in points],
            }
        )
    for line in lines:
        # without batch norm a network has a place beside any kind of it
        beside = [o["norm"] for o in lines if o["tasks"] == line["tasks"] and not _no_norm(o["norm"])]
        norm = beside[0] if beside and _no_norm(line["norm"]) else line["norm"]
        line["panel"] = f"{line['tasks']}, norm {norm}"
    for line in lines:
        same = [other["config"] for other in lines if (other["panel"], other["algo"]) == (line["panel"], line["algo"])]
        telling = [key for key in line["config"] if any(o.get(key) != line["config"][key] for o in same)]
        line["label"] = " ".join([line["algo"], *(f"{key}={line['config'][key]}" for key in telling[:2])])
    return lines


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table; accuracies in percent."""
    titles = (*COLUMNS[:7], "result ± interval over tasks", "seeds", "sd between seeds")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in table:
        percent = row["metric"] == "accuracy"
        spread = (
            ""
            if math.isnan(row["sd_seeds"])
            else f"{100 * row['sd_seeds']:.2f} %"
            if percent
            else f"{row['sd_seeds']:.4f}"
        )
        cells = [row[c] for c in COLUMNS[:7]] + [
            amount(row["metric"], row["mean"], row["ci95_tasks"]),
            row["seeds"],
            spread,
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join([*lines, "", "± is the 95 % interval over test tasks, 1.96 s / sqrt(n), of one run.", ""])


def comma_separated(table: list[dict[str, Any]]) -> str:
    """The rows as CSV, numbers unrounded."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()
