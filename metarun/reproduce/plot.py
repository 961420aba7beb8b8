"""The figure of a published table: our result and the published one, a line for each."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from metarun.core.metric import Metric
from metarun.reproduce.rows import Row
from metarun.reproduce.verdict import Verdict
from metarun.results.axes import STRETCH, Scale, label
from metarun.results.task_figures import BAD, GOOD, INK, SOFT


def reproduction(rows: list[Row]) -> Figure:
    """Draw our results and the published ones; bars: our 95 % interval, and the published ±.

    Our interval is over tasks; where it is over seeds as well, the row names their number. A hollow circle was trained
    for less than the published length.
    """
    panels: dict[Metric, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.metric.name):
        panels.setdefault(row.metric, []).append(row)
    heights = [len(panel) + 1.5 for panel in panels.values()] or [2]
    figure = Figure(figsize=(8, 0.32 * sum(heights) + 0.6), layout="constrained")
    figure.suptitle(
        "squares: published; circles: ours (green: reproduced, red: below, blue: other, hollow: partial budget)",
        fontsize=8,
    )
    places = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (metric, panel) in zip(places, panels.items(), strict=False):
        factor = metric.scale
        for y, row in enumerate(panel):
            published = None if np.isnan(row.published_ci) else factor * row.published_ci
            axes.errorbar(factor * row.published, y - 0.15, xerr=published, fmt="s", ms=4, capsize=2, color=SOFT)
            if not np.isfinite(row.ours.mean):
                axes.text(0.99, y + 0.15, "diverged", color=BAD, fontsize=7, ha="right", va="center",
                          transform=axes.get_yaxis_transform())  # fmt: skip
                continue
            colour = {Verdict.reproduced: GOOD, Verdict.below: BAD}.get(row.verdict, INK)
            fill = "none" if row.budget < 1 else colour
            mean, half = factor * row.ours.mean, factor * row.ours.ci95
            axes.errorbar(mean, y + 0.15, xerr=half, fmt="o", ms=4, capsize=2, color=colour, mfc=fill)
        axes.set_yticks(range(len(panel)), map(_name, panel), fontsize=8)
        axes.set_xlabel(label(metric))
        low, high = (factor * bound for bound in metric.bounds)
        if Scale.of(metric) is Scale.log:  # the largest errors leave the picture
            known = [abs(factor * row.published) for row in panel if np.isfinite(row.published)]
            most = STRETCH * max(known, default=math.inf)
            if Scale.sign(metric) > 0:  # on a log scale, on which no large one hides the others
                axes.set_xscale("log")
                means = [factor * value for row in panel for value in (row.ours.mean, row.published) if value > 0]
                low, high = min(means, default=1.0) / 2, most
            else:
                low = -most
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, low), min(right, high))
        axes.set_ylim(len(panel) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
    return figure


def _name(row: Row) -> str:
    seeds = "" if row.ci95_of in ("", "tasks") else f", {row.seeds} seeds"
    several = f"ensemble of {row.ensemble}, " if row.ensemble > 1 else ""
    return f"{row.cell}, {several}{row.norm_in_words}, inner steps {row.steps}{seeds}"
