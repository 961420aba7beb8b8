"""One table of any number of results, and the lines of a plot of them."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from typing import Any

from metarun.core.intervals import over_seeds
from metarun.results.labels import labels, telling, title, written
from metarun.results.result import Result


def amount(metric: str, mean: float, half: float | None = None) -> str:
    """``98.70 ± 0.40 %`` or ``0.3812 ± 0.0300``; without ± where no interval is known."""
    if not math.isfinite(mean):
        return "not finite"
    percent = metric == "accuracy"
    numbers = [mean] if half is None or math.isnan(half) else [mean, half]
    return " ± ".join(f"{100 * n:.2f}" if percent else f"{n:.4f}" for n in numbers) + (" %" if percent else "")


def figure(metric: str, entry: dict[str, Any]) -> str:
    """The amount of a score, a row of it or a validation, and how many of the tasks behind it diverged, if any."""
    diverged, tasks = entry.get("diverged", 0), entry.get("tasks")
    of = f" of {tasks}" if tasks else ""
    return amount(metric, entry["mean"], entry["ci95"]) + (f" ({diverged}{of} tasks diverged)" if diverged else "")


def has_figure(score: dict[str, Any]) -> bool:
    """Whether a score says anything: not where its mean is not finite, nor where all tasks diverged."""
    return math.isfinite(score["mean"]) and score.get("diverged", 0) < score["tasks"]


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
    "diverged",
)


def _runs(results: list[Result]) -> list[list[tuple[Result, dict[str, Any]]]]:
    """The runs of each (configuration, norm) with their scores, one for each seed."""
    merged: dict[str, dict[int, tuple[Result, dict[str, Any]]]] = {}
    for result in _apart(_apart(results, "pool_sha256"), "data_sha256"):
        rest = _settings(result)
        for score in result["scores"]:
            tested = [result["protocol"]["split"], score["norm"], score["tasks"], _unfinished(result)]
            identity = json.dumps([rest, *tested], sort_keys=True)
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


def _unfinished(result: Result) -> str:
    """Words for parameters of a run that was tested before its training was done, else none."""
    asked, selected = result["config"].get("steps", 0), result.get("selected", {"validation": True})
    done = result.get("trained", asked if selected["validation"] else selected["step"])  # older files say less
    return f" (unfinished: {done} of {asked} meta-iterations)" if done < asked else ""


def _settings(result: Result) -> dict[str, Any]:
    """The configuration less what runs are merged over."""
    return {key: value for key, value in result["config"].items() if key != "seed"}


def _more(table: list[dict[str, Any]]) -> list[str]:
    """The columns that a table has behind the usual ones."""
    return [name for name in table[0] if name not in COLUMNS] if table else []


def _no_norm(norm: str) -> bool:
    """Whether a score is of a network without batch norm."""
    return norm.startswith("none")


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """One row for each (configuration, norm), the best first; runs that differ only in seed are merged.

    Behind ``COLUMNS`` come the settings that tell the rows apart, under their keys.

    mean: over seeds. ci95_tasks: 95 % interval over tasks of one run (root mean square over the seeds). sd_seeds:
    standard deviation of the runs' means between seeds, nan for one seed. diverged: test tasks, over all seeds; they
    count with the worst value there is.
    """
    table: list[dict[str, Any]] = []
    configs = []
    for runs in _runs(results):
        result, score = runs[0]
        mean, interval, spread = over_seeds([(s["mean"], s["ci95"]) for _, s in runs])
        values = (
            result["names"]["algo"] + _unfinished(result),
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
            sum(s.get("diverged", 0) for _, s in runs),
        )
        table.append(dict(zip(COLUMNS, values, strict=True)))
        configs.append(_settings(result))
    for key in telling(configs, table):
        name = f"setting {key}" if title(key) in COLUMNS else title(key)
        for row, settings in zip(table, configs, strict=True):
            row[name] = written(settings[key]) if key in settings else ""

    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        cost = -row["mean"] if row["metric"] == "accuracy" else row["mean"]
        return row["dataset"], row["task"], _no_norm(row["norm"]), row["norm"], math.isnan(cost), cost

    return sorted(table, key=order)


def by_steps(results: list[Result]) -> list[dict[str, Any]]:
    """One line of a plot for each (configuration, norm): metric against inner steps, mean over seeds.

    panel: what lines must share to be compared, the tasks and, where there is batch norm, its statistics. label: the
    method, with all settings that tell it from others of its name. steps, mean, ci95, diverged: lists.
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
                "algo": result["names"]["algo"] + _unfinished(result),
                "config": _settings(result),
                "metric": result["metric"],
                "steps": [row["steps"] for row in score["by_steps"]],
                "mean": [mean for mean, _, _ in points],
                "ci95": [half for _, half, _ in points],
                "diverged": [
                    sum(row.get("diverged", 0) for row in rows)
                    for rows in zip(*(s["by_steps"] for _, s in runs), strict=True)
                ],
            }
        )
    for line in lines:
        # without batch norm a network has a place beside any kind of it
        beside = [o["norm"] for o in lines if o["tasks"] == line["tasks"] and not _no_norm(o["norm"])]
        norm = beside[0] if beside and _no_norm(line["norm"]) else line["norm"]
        line["panel"] = f"{line['tasks']}, norm {norm}"
    for of in dict.fromkeys((line["panel"], line["algo"]) for line in lines):
        same = [line for line in lines if (line["panel"], line["algo"]) == of]
        for line, label in zip(same, labels([line["config"] for line in same]), strict=True):
            words = f"{line['algo']} {label}".strip()
            line["label"] = textwrap.fill(words, 60, break_long_words=False, break_on_hyphens=False)
    return lines


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table; accuracies in percent."""
    some_diverged = any(row["diverged"] for row in table)
    titles = [*COLUMNS[:7], "result ± interval over tasks", "seeds", "sd between seeds"]
    titles += ["diverged"] if some_diverged else []
    titles += _more(table)
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
        if some_diverged:
            cells.append(f"{row['diverged']} of {row['seeds'] * row['tasks']}")
        cells += [row[name] for name in _more(table)]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join([*lines, "", "± is the 95 % interval over test tasks, 1.96 s / sqrt(n), of one run.", ""])


def comma_separated(table: list[dict[str, Any]]) -> str:
    """The rows as CSV, numbers unrounded."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*COLUMNS, *_more(table)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()
