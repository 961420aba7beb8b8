"""Plots of results, as PNG files beside the report of a run or the table of many."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from metarun.files import write_atomic
from metarun.results.task_figures import BAD, GOOD, INK, SOFT

MARKS = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
STRETCH = 100  # how many times the ordinary error an axis reaches up to, however large others are
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"]  # Okabe and Ito 2008
DASHES, MARKERS = ["-", "--", ":", "-."], "osD^vP*X"
Limits = tuple[float, float]


def save(figure: Figure, path: Path) -> None:
    """Write the picture, whole or not at all."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, of letters that its font lacks
        figure.savefig(image, dpi=110, bbox_inches="tight", format="png")
    write_atomic(path, image.getvalue())


def _scale(metric: str) -> tuple[float, str]:
    """Factor and axis label: accuracies are drawn in percent."""
    return (100.0, "accuracy, %") if metric == "accuracy" else (1.0, "mean squared error")


def _style(i: int) -> dict[str, Any]:
    """Of the i-th of many lines: seven colours, then the same ones with other dashes and markers."""
    turn = i // len(COLOURS)
    dashes, marker = DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "ls": dashes, "marker": marker, "ms": 3.5}


def _log_axis(axes: Axes, lines: Sequence[Sequence[float]], ends: Sequence[float] | np.ndarray = ()) -> Limits:
    """A log scale for lines of errors and the ends of their intervals, with numbers at its ticks.

    It ends at ``STRETCH`` times an ordinary line's first or middle value, the larger: beyond lies what diverged.
    """
    axes.set_yscale("log")
    values = np.concatenate([np.empty(0), *(np.asarray(line, float) for line in [*lines, ends])])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return axes.get_ylim()
    each = [[value for value in line if np.isfinite(value)] for line in lines]
    typical = sorted(max(line[0], np.median(line)) for line in each if line) or [np.inf]
    ordinary = typical[(len(typical) - 1) // 2]
    within = values[values <= STRETCH * ordinary]
    low, high = (f(within if len(within) else values) for f in (np.min, np.max))
    low, high = (low / 1.2, high * 1.2)
    locator: Locator = MaxNLocator(4)
    if high / low > 4:
        subs = (1, 1.5, 2, 3, 5, 7) if high / low < 30 else (1, 2, 5) if high / low < 1000 else (1,)
        locator = LogLocator(subs=subs, numticks=8)
    axes.set_ylim(low, high)
    _ticks(axes, locator, 1.0)
    return low, high


def _logit_axis(axes: Axes, ends: np.ndarray) -> Limits:
    """A logit scale for accuracies with such ends of intervals, from one of its marks to another."""
    axes.set_yscale("logit")
    low, high = (np.clip(end, MARKS[0], MARKS[-1]) for end in (ends.min(), ends.max()))
    low, high = max(m for m in MARKS if m <= low), min(m for m in MARKS if m >= high)
    if low == high:  # so that two are seen
        low = MARKS[max(0, MARKS.index(low) - 1)]
        high = MARKS[min(len(MARKS) - 1, MARKS.index(high) + 1)]
    axes.set_ylim(low, high)
    _ticks(axes, FixedLocator(MARKS), 100.0)
    return low, high


def _whole_numbers() -> Locator:
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def _ticks(axes: Axes, locator: Locator, factor: float) -> None:
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{factor * value:.4g}"))


def _line(
    axes: Axes, x: Sequence[float], mean: Sequence[float], half: Sequence[float], limits: Limits, worst: float,
    diverged: Sequence[int], **style: Any,
) -> None:  # fmt: skip
    """A line with bars of the half-widths that stays within the axis.

    What lies beyond is on its edge, as a triangle; what is not finite lies beyond the ``worst`` edge. A cross is where
    tasks diverged.
    """
    at, middle, bars = np.asarray(x, float), np.asarray(mean, float), np.nan_to_num(np.asarray(half, float))
    middle = np.where(np.isfinite(middle), middle, worst)
    bars = np.where(np.isfinite(bars), bars, 0)
    kept, ends = np.clip(middle, *limits), np.clip(np.stack([middle - bars, middle + bars]), *limits)
    axes.errorbar(at, kept, np.abs(ends - kept), capsize=2, lw=1.2, **style)
    for beyond, marker in ((middle > limits[1], "^"), (middle < limits[0], "v")):
        if beyond.any():
            axes.plot(at[beyond], kept[beyond], marker, color=style["color"], ms=8, clip_on=False)
    crossed = np.asarray(diverged) > 0
    if crossed.any():
        axes.plot(at[crossed], kept[crossed], "x", color=BAD, ms=8, clip_on=False)


def curves(result: dict[str, Any], lines: list[dict[str, Any]]) -> Figure:
    """Training and validation metric and training loss against meta-iterations; bars: 95 % interval over tasks."""
    metric = result["metric"]
    factor, label = _scale(metric)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = [line for line in lines if line["split"] == "train"]
    validation = [line for line in lines if line["split"] == "val"]
    shown = [[factor * line[metric] for line in of] for of in (training, validation)]
    limits, worst = (0.0, 100.0), 0.0
    if metric != "accuracy":
        limits, worst = _log_axis(left, shown), np.inf
    steps = [line["step"] for line in training]
    dot = "." if len(steps) < 2 else None
    left.plot(steps, np.clip(shown[0], *limits), color=SOFT, lw=1, marker=dot, label="meta-train")
    if validation:
        at, half = [line["step"] for line in validation], [factor * line["ci95"] for line in validation]
        diverged = [line.get("diverged", 0) for line in validation]
        style = {"color": INK, "marker": "." if len(at) < 40 else None}
        named = f"validation, {validation[0]['tasks']} tasks"
        _line(left, at, shown[1], half, limits, worst, diverged, label=named, **style)
        if any(diverged):
            left.plot([], [], "x", color=BAD, label="some tasks diverged")
    left.axvline(result["selected"]["step"], color="0.6", lw=0.8, ls=":", label="tested")
    left.set(xlabel="meta-iteration", ylabel=label if metric == "accuracy" else f"{label} (log scale)")
    if metric == "accuracy":
        bottom, top = left.get_ylim()
        left.set_ylim(max(bottom, 0), min(top, 100))
    losses = [line["loss"] for line in training]
    right.plot(steps, np.clip(losses, *_log_axis(right, [losses])), color=SOFT, lw=1, marker=dot)
    right.set(xlabel="meta-iteration", ylabel="meta-training loss (log scale)")
    for axes in (left, right):
        axes.xaxis.set_major_locator(_whole_numbers())
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(_title(result), fontsize=10)
    return figure


def _against_steps(axes: Axes, metric: str, lines: list[dict[str, Any]], styles: list[dict[str, Any]]) -> None:
    """Lines of a test metric against inner steps, with their 95 % intervals.

    lines: each with steps, mean, ci95, diverged (lists) and label. Accuracies on a logit scale and
    errors on a log scale: on a plain one the row before adapting presses all the others into a line.
    """
    means, halves, diverged = (np.concatenate([line[key] for line in lines]) for key in ("mean", "ci95", "diverged"))
    bars = np.nan_to_num(halves, posinf=0)
    ends = np.concatenate([means - bars, means + bars])
    if metric == "accuracy":
        sound = np.isfinite(ends) & (np.tile(diverged, 2) == 0)
        sound = sound if sound.any() else np.isfinite(ends)
        limits, worst = _logit_axis(axes, ends[sound] if sound.any() else np.array([0.5])), 0.0
    else:
        limits, worst = _log_axis(axes, [line["mean"] for line in lines], ends), np.inf
    for line, style in zip(lines, styles, strict=True):
        columns = line["steps"], line["mean"], line["ci95"]
        _line(axes, *columns, limits, worst, line["diverged"], label=line["label"], **style)
    kind = "logit scale" if metric == "accuracy" else "log scale"
    axes.set(xlabel="inner steps at test", ylabel=f"meta-test {_scale(metric)[1]} ({kind})")
    axes.xaxis.set_major_locator(_whole_numbers())
    if diverged.any():
        axes.plot([], [], "x", color=BAD, label="some tasks diverged")


def steps(result: dict[str, Any]) -> Figure:
    """Test metric against inner steps, one line for each norm; bars: 95 % interval over tasks."""
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.subplots()
    lines = []
    for score in result["scores"]:
        columns = {key: [row[key] for row in score["by_steps"]] for key in ("steps", "mean", "ci95")}
        lines.append(
            {**columns, "diverged": [row.get("diverged", 0) for row in score["by_steps"]], "label": score["norm"]}
        )
    markers = {} if len(lines[0]["steps"]) < 20 else {"marker": None}
    _against_steps(axes, result["metric"], lines, [{**_style(i), **markers} for i in range(len(lines))])
    title = f"norm, {score['tasks']} tasks"
    figure.legend(loc="outside lower center", ncols=2, title=title, fontsize=8, title_fontsize=8)
    figure.suptitle(_title(result), fontsize=9)
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
        worst = -np.inf if metric == "accuracy" else np.inf
        shown.sort(key=lambda line: np.nan_to_num(line["mean"][-1], nan=worst), reverse=metric == "accuracy")
        _against_steps(axes, metric, shown, [_style(i) for i in range(len(shown))])
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
    height = max(3.8, 0.18 * len(names) + 0.6) if in_steps else 0.24 * len(names) + 1.2
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    if in_steps:
        for i, name in enumerate(names):
            axes.plot(range(1, len(rates[name]) + 1), rates[name], lw=1.2, label=name, **{**_style(i), "ms": 5})
        axes.set(xlabel="inner step", ylabel="step size")
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.5)
    else:
        for row, name in enumerate(names):
            low, lower, middle, upper, high = np.quantile(rates[name], [0.025, 0.25, 0.5, 0.75, 0.975])
            axes.plot([low, high], [row, row], color=INK, lw=1)
            axes.plot([lower, upper], [row, row], color=INK, lw=4, solid_capstyle="butt")
            axes.plot(middle, row, ".", color=SOFT)
        axes.set(xlabel="step size: median, middle half, middle 95 % of entries", yticks=range(len(names)))
        axes.set_yticklabels(names, fontsize=7)
        axes.invert_yaxis()
    low, high = axes.get_ylim() if in_steps else axes.get_xlim()
    if low < 0 < high:  # step sizes that are close together stay apart where 0 is far
        (axes.axhline if in_steps else axes.axvline)(0, color="0.7", lw=0.8)
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
            if not np.isfinite(row["mean"]):
                axes.text(0.99, y + 0.15, "diverged", color=BAD, fontsize=7, ha="right", va="center",
                          transform=axes.get_yaxis_transform())  # fmt: skip
                continue
            colour = {"reproduced": GOOD, "below": BAD}.get(row["verdict"], INK)
            fill = "none" if row["budget"] < 1 else colour
            mean, half = factor * row["mean"], factor * row["ci95"]
            axes.errorbar(mean, y + 0.15, xerr=half, fmt="o", ms=4, capsize=2, color=colour, mfc=fill)
        names = [f"{row['cell'].split('/')[1]}, {row['norm']}, inner steps {row['steps']}" for row in panel]
        axes.set_yticks(range(len(panel)), names, fontsize=8)
        axes.set_xlabel(label)
        left, right = axes.get_xlim()
        beyond = STRETCH * max((row["published"] for row in panel if np.isfinite(row["published"])), default=np.inf)
        axes.set_xlim((max(left, 0), min(right, 100)) if metric == "accuracy" else (left, min(right, beyond)))
        axes.set_ylim(len(panel) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
    return figure
