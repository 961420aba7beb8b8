"""Figures of the curves of one run, or of many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarun.core.metric import Metric
from metarun.results.axes import (
    DASHES,
    Scale,
    label,
    line,
    log_axis,
    logit_axis,
    plain_axis,
    style,
    whole_numbers,
)
from metarun.results.report import headline
from metarun.results.result import Result
from metarun.results.tables import Line
from metarun.results.task_figures import BAD, INK, SOFT


def _against_steps(axes: Axes, metric: Metric, lines: list[Line], styles: list[dict[str, Any]]) -> None:
    """Draw lines of a test metric against inner steps, with their 95 % intervals.

    Shares get a logit scale and errors a log scale: on a plain one, the values before adapting would leave no room for
    the differences between the others.
    """
    scale, estimates = Scale.of(metric), [of for drawn in lines for of in drawn.estimates]
    factor = 1.0 if scale is Scale.logit else metric.scale  # a logit is of shares
    means, halves = (factor * np.array([getattr(of, name) for of in estimates]) for name in ("mean", "ci95"))
    diverged = np.array([of.diverged for of in estimates])
    bars = np.nan_to_num(halves, posinf=0)
    ends = np.concatenate([means - bars, means + bars])
    known = [factor * of.mean for drawn in lines for of in drawn.yardsticks.values()]
    if scale is Scale.log:
        shown = [[factor * of.mean for of in drawn.estimates] for drawn in lines]
        limits = log_axis(axes, shown, [*ends, *known], Scale.sign(metric))
    else:
        sound = np.isfinite(ends) & (np.tile(diverged, 2) == 0)
        sound = sound if sound.any() else np.isfinite(ends)
        if scale is Scale.logit:
            limits = logit_axis(axes, ends[sound] if sound.any() else np.array([0.5]), metric.scale)
        else:
            limits = plain_axis(axes, [*ends[sound], *known], metric)
    for drawn, look in zip(lines, styles, strict=True):
        line(axes, metric, drawn.steps, drawn.estimates, limits, factor, label=drawn.label, **look)
    axes.set(xlabel="inner steps at test", ylabel=f"meta-test {label(metric)}{scale.note}")
    axes.xaxis.set_major_locator(whole_numbers())
    if diverged.any():
        axes.plot([], [], "x", color=BAD, label="some tasks diverged")
    _yardsticks(axes, lines, styles, factor)


def _yardsticks(axes: Axes, lines: list[Line], styles: list[dict[str, Any]], factor: float) -> None:
    """Draw what known solutions get on the same tasks: a grey line, or one a method where they differ."""
    for i, name in enumerate(dict.fromkeys(name for drawn in lines for name in drawn.yardsticks)):
        found = [
            (factor * drawn.yardsticks[name].mean, look["color"])
            for drawn, look in zip(lines, styles, strict=True)
            if name in drawn.yardsticks
        ]
        one = np.ptp([value for value, _ in found]) < 1e-6
        look: dict[str, Any] = {"ls": DASHES[1 + i % 3], "lw": 1.0, "zorder": 0}
        for value, colour in found[:1] if one else found:
            axes.axhline(value, color="0.5" if one else colour, alpha=1.0 if one else 0.7, **look)
        axes.plot([], [], color="0.5", label=name if one else f"{name}, in its colour", **look)


def legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Return handles and labels, those of lines with intervals first."""
    pairs = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda pair: isinstance(pair[0], Artist))
    return [handle for handle, _ in pairs], [words for _, words in pairs]


def steps(result: Result) -> Figure:
    """Draw a run's test metric against inner steps, one line for each norm; bars: 95 % interval over tasks."""
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.subplots()
    lines = [Line.of(score, result.metric, result.yardsticks) for score in result.scores]
    title: str | None = f"norm, {result.scores[-1].estimate.tasks} tasks"
    if [(score.norm, score.ensemble) for score in result.scores] == [(None, 1)]:  # there is nothing to tell apart
        lines, title = [replace(lines[0], label=f"{result.names['algo']}, {lines[0].estimates[-1].tasks} tasks")], None
    markers = {} if len(lines[0].steps) < 20 else {"marker": None}
    _against_steps(axes, result.metric, lines, [{**style(i), **markers} for i in range(len(lines))])
    figure.legend(*legend(axes), loc="outside lower center", ncols=2, title=title, fontsize=8, title_fontsize=8)
    figure.suptitle(headline(result), fontsize=9)
    return figure


def comparison(lines: list[Line]) -> Figure:
    """Draw the test metric of many methods against inner steps; bars: 95 % interval over tasks.

    Args:
        lines: the lines; each ``panel`` is a plot of its own.
    """
    panels = list(dict.fromkeys(of.panel for of in lines))
    figure = Figure(figsize=(8, 3.8 * len(panels)), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0], strict=True):
        shown = [of for of in lines if of.panel == panel]
        metric = shown[0].metric
        shown.sort(key=lambda of: of.goodness, reverse=True)
        _against_steps(axes, metric, shown, [style(i) for i in range(len(shown))])
        longest = max(of.steps[-1] for of in shown)
        if longest > 15:
            axes.set_xscale("symlog", linthresh=5)
            axes.set_xlim(-0.5, 1.2 * longest)
            axes.set_xticks([s for s in (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if s <= longest])
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(panel, fontsize=8)
        axes.legend(*legend(axes), fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def step_sizes(rates: dict[str, np.ndarray]) -> Figure:
    """Draw meta-learned step sizes: as lines over the inner steps, or as quantiles over a parameter's entries.

    Args:
        rates: parameter name -> step sizes, [S] or of the parameter's shape.
    """
    names = list(rates)
    in_steps = all(values.ndim == 1 and len(values) == len(rates[names[0]]) for values in rates.values())
    height = max(3.8, 0.18 * len(names) + 0.6) if in_steps else 0.24 * len(names) + 1.2
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    if in_steps:
        for i, name in enumerate(names):
            axes.plot(range(1, len(rates[name]) + 1), rates[name], lw=1.2, label=name, **{**style(i), "ms": 5})
        axes.set(xlabel="inner step", ylabel="step size")
        axes.xaxis.set_major_locator(whole_numbers())
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
