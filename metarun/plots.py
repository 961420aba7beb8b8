"""Plots of results, as PNG files beside the report of a run or the table of many."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from metarun.episode import Episode
from metarun.files import write_atomic
from metarun.pictures import BAD, GOOD, INK, SOFT, points, predictions, regression


def draw_all(
    out: Path, result: dict[str, Any], lines: list[dict[str, Any]], episodes: Episode, outputs: Tensor
) -> None:
    """Write curves.png, steps.png and episodes.png (points.png in the plane, sinusoid.png for regression) into ``out``.

    lines: the run's log. episodes: a few test tasks. outputs: [T, S+1, N*Q, outputs] for their query sets.
    """
    if lines:
        save(curves(result, lines), out / "curves.png")
    save(steps(result), out / "steps.png")
    if result["metric"] == "mse":
        save(regression(episodes, outputs), out / "sinusoid.png")
    elif episodes.query_x.shape[2:] == (2,):
        save(points(episodes, outputs), out / "points.png")
    else:
        save(predictions(episodes, outputs), out / "episodes.png")


def save(figure: Figure, path: Path) -> None:
    """As PNG. Raises ``OSError`` that names the path where the disk does not take it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    write_atomic(path, buffer.getvalue())


def _scale(metric: str) -> tuple[float, str]:
    """Factor and axis label: accuracies are drawn in percent."""
    return (100.0, "accuracy, %") if metric == "accuracy" else (1.0, "mean squared error")


def curves(result: dict[str, Any], lines: list[dict[str, Any]]) -> Figure:
    """Training and validation metric and training loss against meta-iterations; band: 95 % interval over tasks."""
    factor, label = _scale(result["metric"])
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = [line for line in lines if line["split"] == "train"]
    validation = [line for line in lines if line["split"] == "val"]
    steps = [line["step"] for line in training]
    left.plot(steps, [factor * line[result["metric"]] for line in training], color=SOFT, lw=1, label="meta-train")
    if validation:
        at = [line["step"] for line in validation]
        mean = np.array([factor * line[result["metric"]] for line in validation])
        half = np.array([factor * line["ci95"] for line in validation])
        left.fill_between(at, mean - half, mean + half, color=INK, alpha=0.2, lw=0)
        left.plot(
            at,
            mean,
            color=INK,
            marker="." if len(at) < 40 else None,
            label=f"validation, {validation[0]['tasks']} tasks",
        )
    left.axvline(result["selected"]["step"], color="0.6", lw=0.8, ls=":", label="tested")
    left.set(xlabel="meta-iteration", ylabel=label)
    left.legend(fontsize=8)
    right.plot(steps, [line["loss"] for line in training], color=SOFT, lw=1)
    right.set(xlabel="meta-iteration", ylabel="meta-training loss", yscale="log")
    figure.suptitle(_title(result), fontsize=10)
    return figure


MARKS = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]


def _line(axes: Axes, metric: str, steps: list[int], mean: list[float], half: list[float], **style: Any) -> None:
    """A test metric after these numbers of inner steps, with its 95 % intervals."""
    middle, bar = np.array(mean), np.array(half)
    ends = np.stack([middle - bar, middle + bar])
    if metric == "accuracy":  # 0 and 1 are infinitely far away
        middle, ends = (np.clip(values, MARKS[0], MARKS[-1]) for values in (middle, ends))
    axes.errorbar(steps, middle, np.abs(ends - middle), capsize=2, lw=1.2, **style)


def _against_steps(axes: Axes, metric: str) -> None:
    """Labels and scales for lines of a test metric against inner steps.

    Accuracies on a logit scale and errors on a log scale: on a plain one the row before adapting presses all the
    others into a line.
    """
    axes.set(xlabel="inner steps at test", ylabel=f"meta-test {_scale(metric)[1]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric == "mse":
        axes.set_yscale("log")
    else:
        axes.set_yscale("logit")
        low, high = np.clip(axes.get_ylim(), MARKS[0], MARKS[-1])
        axes.set_ylim(max(m for m in MARKS if m <= low), min(m for m in MARKS if m >= high))  # so that two are seen
        axes.yaxis.set_major_locator(FixedLocator(MARKS))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))


def steps(result: dict[str, Any]) -> Figure:
    """Test metric against inner steps, one line for each norm; bars: 95 % interval over tasks."""
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    for score in result["scores"]:
        steps, mean, half = ([row[key] for row in score["by_steps"]] for key in ("steps", "mean", "ci95"))
        marker = "o" if len(steps) < 20 else None
        _line(axes, result["metric"], steps, mean, half, marker=marker, ms=4, label=score["norm"])
    _against_steps(axes, result["metric"])
    axes.legend(title=f"norm, {score['tasks']} tasks", fontsize=8, title_fontsize=8)
    axes.set_title(_title(result), fontsize=9)
    return figure


def comparison(lines: list[dict[str, Any]]) -> Figure:
    """Methods on the same tasks, a panel for each kind of task: test metric against inner steps.

    lines: as ``report.by_steps`` makes them. Bars: 95 % interval over tasks.
    """
    panels = list(dict.fromkeys(line["panel"] for line in lines))
    figure = Figure(figsize=(6.4, 3.8 * len(panels)), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0], strict=True):
        shown = [line for line in lines if line["panel"] == panel]
        metric = shown[0]["metric"]
        best_first = sorted(shown, key=lambda line: line["mean"][-1], reverse=metric == "accuracy")
        for i, line in enumerate(best_first):
            style = {"color": f"C{i % 10}", "ls": "-" if i < 10 else "--", "marker": "o", "ms": 3}
            _line(axes, metric, line["steps"], line["mean"], line["ci95"], label=line["label"], **style)
        _against_steps(axes, metric)
        longest = max(line["steps"][-1] for line in shown)
        if longest > 15:
            axes.set_xscale("symlog", linthresh=5)
            axes.set_xlim(-0.5, 1.2 * longest)
            axes.set_xticks([s for s in (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if s <= longest])
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(panel, fontsize=8)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def step_sizes(rates: dict[str, np.ndarray]) -> Figure:
    """Meta-learned step sizes by parameter tensor: one for each inner step as a line, else quantiles over its entries.

    rates: parameter name -> step sizes, [S] or shaped like the parameter.
    """
    names = list(rates)
    in_steps = all(values.ndim == 1 and len(values) == len(rates[names[0]]) for values in rates.values())
    figure = Figure(figsize=(7, 1.2 + (2.6 if in_steps else 0.24 * len(names))), layout="constrained")
    axes = figure.subplots()
    if in_steps:
        for i, name in enumerate(names):
            steps = range(1, len(rates[name]) + 1)
            axes.plot(steps, rates[name], color=f"C{i % 10}", ls="-" if i < 10 else "--", marker=".", label=name)
        axes.set(xlabel="inner step", ylabel="step size", xticks=list(steps))
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        for row, name in enumerate(names):
            low, lower, middle, upper, high = np.quantile(rates[name], [0.025, 0.25, 0.5, 0.75, 0.975])
            axes.plot([low, high], [row, row], color=INK, lw=1)
            axes.plot([lower, upper], [row, row], color=INK, lw=4, solid_capstyle="butt")
            axes.plot(middle, row, ".", color=SOFT)
        axes.set(xlabel="step size: median, middle half, middle 95 % of entries", yticks=range(len(names)))
        axes.set_yticklabels(names, fontsize=7)
        axes.invert_yaxis()
    axes.axhline(0, color="0.7", lw=0.8) if in_steps else axes.axvline(0, color="0.7", lw=0.8)
    return figure


def _title(result: dict[str, Any]) -> str:
    names = result["names"]
    return f"{names['algo']} on {names['dataset']}, {result['protocol']['task']}, seed {result['seed']}"


def reproduction(rows: list[dict[str, Any]]) -> Figure:
    """Ours beside the published numbers, a line for each; bars: our 95 % interval over tasks, and the published ±.

    rows: as ``verdicts.Row``. Hollow: trained for less than the published length.
    """
    metrics = [metric for metric in ("accuracy", "mse") if any(row["metric"] == metric for row in rows)]
    panels = {metric: [row for row in rows if row["metric"] == metric] for metric in metrics}
    heights = [len(panel) + 1.5 for panel in panels.values()] or [2]
    figure = Figure(figsize=(8, 0.32 * sum(heights) + 0.6), layout="constrained")
    figure.suptitle(
        "squares: published; circles: ours (green: reproduced, red: below, blue: other, hollow: partial budget)",
        fontsize=8,
    )
    places = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (metric, panel) in zip(places, panels.items(), strict=False):
        factor, label = _scale(metric)
        for y, row in enumerate(panel):
            published = None if np.isnan(row["published_ci"]) else factor * row["published_ci"]
            axes.errorbar(factor * row["published"], y - 0.15, xerr=published, fmt="s", ms=4, capsize=2, color=SOFT)
            colour = {"reproduced": GOOD, "below": BAD}.get(row["verdict"], INK)
            fill = "none" if row["verdict"] == "partial budget" else colour
            mean, half = factor * row["mean"], factor * row["ci95"]
            axes.errorbar(mean, y + 0.15, xerr=half, fmt="o", ms=4, capsize=2, color=colour, mfc=fill)
        names = [f"{row['cell'].split('/')[1]}, {row['norm']}, inner steps {row['steps']}" for row in panel]
        axes.set_yticks(range(len(panel)), names, fontsize=8)
        axes.set_xlabel(label)
        axes.set_ylim(len(panel) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
    return figure
