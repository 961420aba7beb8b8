"""Curves of one run, or of many beside each other, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from metarun.core.acting import ENV_STEPS
from metarun.core.intervals import Estimate
from metarun.core.metric import Metric
from metarun.results.axes import (
    DASHES,
    Limits,
    Scale,
    label,
    line,
    log_axis,
    logit_axis,
    plain_axis,
    style,
    whole_numbers,
)
from metarun.results.result import Result
from metarun.results.tables import Line
from metarun.results.task_figures import BAD, INK, SOFT

MAX_KL = "algo.trust_region.max_kl"


def curves(result: Result, lines: list[dict[str, Any]]) -> Figure:
    """Training and validation metric against meta-iterations; bars: 95 % interval over tasks.

    Beside it the training loss, or, where tasks act, the same curves against the steps of their environments: the loss
    of data that the policies have just drawn says little. The metric before adapting is drawn where it was measured.

    lines: the run's journal.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = [of for of in lines if of["split"] == "train"]
    steps = [of["step"] for of in training]
    _curves_of_a_run(left, result, lines, [of["step"] for of in lines], result.selected.step)
    left.set(xlabel="meta-iteration")
    left.xaxis.set_major_locator(whole_numbers())
    if training and ENV_STEPS in training[0]:
        met = _met(training, result.config.get("meta_batch", 1))
        at = [float(np.interp(of["step"], [0, *steps], [0, *met])) for of in lines]
        tested = float(np.interp(result.selected.step, [0, *steps], [0, *met]))
        _curves_of_a_run(right, result, lines, at, tested)
        right.set(xlabel="environment steps of meta-training")
        right.xaxis.set_major_formatter(EngFormatter())
    else:
        losses = [of["loss"] for of in training]
        dot = "." if len(steps) < 2 else None
        right.plot(steps, np.clip(losses, *log_axis(right, [losses])), color=SOFT, lw=1, marker=dot)
        right.set(xlabel="meta-iteration", ylabel="meta-training loss (log scale)")
        right.xaxis.set_major_locator(whole_numbers())
    figure.legend(*_legend(left), loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(_title(result), fontsize=10)
    return figure


def _met(training: list[dict[str, Any]], meta_batch: int) -> list[float]:
    """The environment steps behind each line: a line has the mean of a task over the meta-iterations since the last."""
    since = np.diff([0, *(of["step"] for of in training)])
    return list(np.cumsum(meta_batch * since * np.asarray([of[ENV_STEPS] for of in training], float)))


def _curves_of_a_run(
    axes: Axes, result: Result, lines: list[dict[str, Any]], at: Sequence[float], tested: float
) -> None:
    """Training and validation metric of a run's lines, which are drawn at ``at``; ``tested``: where the tested are."""
    metric = result.metric
    validation = [of for of in lines if of["split"] == "val"]
    found = [Estimate(of[metric.name], of["ci95"], of["tasks"], of.get("diverged", 0)) for of in validation]
    adapts = any(metric.before in of for of in lines)
    drawn = {
        (split, name): [
            (x, metric.scale * of[name]) for x, of in zip(at, lines, strict=True) if of["split"] == split and name in of
        ]
        for split in ("train", "val")
        for name in (metric.before, metric.name)
    }
    limits = _axis_of_a_run(axes, metric, [[y for _, y in points] for points in drawn.values()], found)
    for (split, name), points in drawn.items():
        if not points:
            continue
        x, y = zip(*points, strict=True)
        look: dict[str, Any] = {"color": INK if split == "val" else SOFT, "ls": "--" if name == metric.before else "-"}
        look["marker"] = "." if len(x) < (40 if split == "val" else 2) else None
        words = "validation" if split == "val" else "meta-train"
        if adapts:
            steps = result.protocol["test_steps" if split == "val" else "train_steps"]
            words += " before adapting" if name == metric.before else f" after {steps} step{'s' * (steps != 1)}"
        if split == "val" and name == metric.name:
            line(axes, metric, x, found, limits, metric.scale, label=f"{words}, {found[0].tasks} tasks", **look)
        else:
            axes.plot(x, np.clip(y, *limits), lw=1, label=words, **look)
    if any(of.diverged for of in found):
        axes.plot([], [], "x", color=BAD, label="some tasks diverged")
    axes.axvline(tested, color="0.6", lw=0.8, ls=":", label="tested")
    axes.set(ylabel=label(metric) + (Scale.log.note if Scale.of(metric) is Scale.log else ""))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, limits[0]), min(top, limits[1]))


def _axis_of_a_run(axes: Axes, metric: Metric, shown: list[list[float]], validation: list[Estimate]) -> Limits:
    """Between which values, as they are read, a run's curves are kept; they may end closer together."""
    ends = [metric.scale * (of.mean + sign * np.nan_to_num(of.ci95)) for of in validation for sign in (-1, 1)]
    if Scale.of(metric) is Scale.log:
        return log_axis(axes, shown, ends if Scale.sign(metric) < 0 else (), Scale.sign(metric))
    if Scale.of(metric) is Scale.logit:  # on a plain scale, since a curve of one run spans most of it
        return metric.scale * metric.bounds[0], metric.scale * metric.bounds[1]
    return plain_axis(axes, [*(value for line in shown for value in line), *ends], metric)


# panels of columns of the journal, with what they are, and the words of the axis
OUTER = (
    ({"kl": "after the step", "kl_before": "before it"}, "KL of the adapted policies"),
    ({"backtracks": "refused, longest first"}, "candidates of the line search"),
    ({"rejected": "outer steps rejected", "clipped": "ratios clipped"}, "share"),
    ({"sigma": "after adapting"}, "sigma of actions"),
    ({"ended": "episodes that ended early", "explained_variance": "variance the baseline explains"}, "share"),
)


def outer(result: Result, lines: list[dict[str, Any]]) -> Figure | None:
    """What the outer step did to policies, against meta-iterations: a panel for each of ``OUTER`` that a run has.

    lines: the run's journal. None where it has none of them.
    """
    training = [of for of in lines if of["split"] == "train"]
    known = [({name: words for name, words in of.items() if any(name in row for row in training)}, axis)
             for of, axis in OUTER]  # fmt: skip
    panels = [(of, axis) for of, axis in known if of]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (names, axis) in zip(places, panels, strict=False):
        for name, look in zip(names, (INK, SOFT), strict=False):
            at, values = zip(*((of["step"], of[name]) for of in training if name in of), strict=True)
            axes.plot(at, values, color=look, lw=1, marker="." if len(at) < 40 else None, label=names[name])
        if "kl" in names and "backtracks" in training[0] and (bound := result.config.get(MAX_KL)):
            axes.axhline(bound, color="0.6", lw=0.8, ls=":", label="largest allowed")
        axes.set(xlabel="meta-iteration", ylabel=axis)
        axes.xaxis.set_major_locator(whole_numbers())
        above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3, "frameon": False}
        axes.legend(fontsize=7, columnspacing=1.0, **above)
    for axes in places[len(panels) :]:
        axes.axis("off")
    figure.suptitle(_title(result), fontsize=10)
    return figure


def _against_steps(axes: Axes, metric: Metric, lines: list[Line], styles: list[dict[str, Any]]) -> None:
    """Lines of a test metric against inner steps, with their 95 % intervals.

    Shares are on a logit scale and errors on a log scale: on a plain one the row before adapting presses all the others
    into a line.
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
    """What known solutions get on the same tasks: a grey line, or where methods differ one in the colour of each."""
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


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels, those of lines with intervals first."""
    pairs = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda pair: isinstance(pair[0], Artist))
    return [handle for handle, _ in pairs], [words for _, words in pairs]


def steps(result: Result) -> Figure:
    """Test metric against inner steps, one line for each norm; bars: 95 % interval over tasks."""
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.subplots()
    lines = [Line.of(score, result.metric, result.yardsticks) for score in result.scores]
    title: str | None = f"norm, {result.scores[-1].estimate.tasks} tasks"
    if [score.norm for score in result.scores] == [None]:  # there is nothing to tell apart
        lines, title = [replace(lines[0], label=f"{result.names['algo']}, {lines[0].estimates[-1].tasks} tasks")], None
    markers = {} if len(lines[0].steps) < 20 else {"marker": None}
    _against_steps(axes, result.metric, lines, [{**style(i), **markers} for i in range(len(lines))])
    figure.legend(*_legend(axes), loc="outside lower center", ncols=2, title=title, fontsize=8, title_fontsize=8)
    figure.suptitle(_title(result), fontsize=9)
    return figure


def comparison(lines: list[Line]) -> Figure:
    """Methods on the same tasks, a panel for each kind of task: test metric against inner steps.

    Bars: 95 % interval over tasks.
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
        axes.legend(*_legend(axes), fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
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


def _title(result: Result) -> str:
    return f"{result.names['algo']} on {result.names['dataset']}, {result.protocol['task']}, seed {result.seed}"
