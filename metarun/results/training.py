"""Figures of a run's meta-training, from its journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from metarun.core.acting import ENV_STEPS
from metarun.core.intervals import Estimate
from metarun.core.metric import Metric
from metarun.results.axes import Limits, Scale, label, line, log_axis, plain_axis, whole_numbers
from metarun.results.curves import legend
from metarun.results.report import headline
from metarun.results.result import Result
from metarun.results.task_figures import BAD, INK, SOFT

MAX_KL = "algo.trust_region.max_kl"


Panel = Callable[[Axes], None]  # draws on axes of its own


def alone(panel: Panel) -> Figure:
    """Draw a panel as a figure of its own."""
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.subplots()
    panel(axes)
    handles, words = legend(axes)
    if handles and axes.get_legend() is None:
        figure.legend(handles, words, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def curves(result: Result, lines: list[dict[str, Any]]) -> Figure:
    """Draw the panels of ``curve_panels`` side by side, with the legend of the first."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    places = figure.subplots(1, 2)
    for axes, panel in zip(places, curve_panels(result, lines), strict=True):
        panel(axes)
    figure.legend(*legend(places[0]), loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(headline(result), fontsize=10)
    return figure


def curve_panels(result: Result, lines: list[dict[str, Any]]) -> list[Panel]:
    """Return two panels, the first of training and validation metric against meta-iterations.

    Bars are the 95 % interval over tasks. The other panel is the training loss, or, where tasks act, the same curves
    against the steps of their environments: the loss of data that the policies have just drawn says little. The metric
    before adapting is drawn where it was measured.

    Args:
        result: the run's result.
        lines: the lines of the run's journal, at least one.
    """
    training = [of for of in lines if of["split"] == "train"]
    steps = [of["step"] for of in training]

    def by_meta_iteration(axes: Axes) -> None:
        _curves_of_a_run(axes, result, lines, [of["step"] for of in lines], result.selected.step)
        axes.set(xlabel="meta-iteration")
        axes.xaxis.set_major_locator(whole_numbers())

    def by_environment_steps(axes: Axes) -> None:
        met = _met(training, result.config.get("meta_batch", 1))
        at = [float(np.interp(of["step"], [0, *steps], [0, *met])) for of in lines]
        tested = float(np.interp(result.selected.step, [0, *steps], [0, *met]))
        _curves_of_a_run(axes, result, lines, at, tested)
        axes.set(xlabel="environment steps of meta-training")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter())

    def of_loss(axes: Axes) -> None:
        losses = [of["loss"] for of in training]
        dot = "." if len(steps) < 2 else None
        axes.plot(steps, np.clip(losses, *log_axis(axes, [losses])), color=SOFT, lw=1, marker=dot)
        axes.set(xlabel="meta-iteration", ylabel="meta-training loss (log scale)")
        axes.xaxis.set_major_locator(whole_numbers())

    acts = bool(training) and ENV_STEPS in training[0]
    return [by_meta_iteration, by_environment_steps if acts else of_loss]


def _met(training: list[dict[str, Any]], meta_batch: int) -> list[float]:
    """Sum the environment steps up to each line, which has a task's mean over the meta-iterations since the last."""
    since = np.diff([0, *(of["step"] for of in training)])
    return list(np.cumsum(meta_batch * since * np.asarray([of[ENV_STEPS] for of in training], float)))


def _curves_of_a_run(
    axes: Axes, result: Result, lines: list[dict[str, Any]], at: Sequence[float], tested: float
) -> None:
    """Draw training and validation metric of a run.

    Args:
        axes: where to draw.
        result: the run's result.
        lines: the lines of its journal.
        at: place of each line on the horizontal axis.
        tested: place of the parameters that were tested.
    """
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
    """Set the scale for a run's curves and return the limits within which they are drawn."""
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
    """Draw the panels of ``outer_panels`` on one figure; None if there are none."""
    panels = outer_panels(result, lines)
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(places, panels, strict=False):
        panel(axes)
    for axes in places[len(panels) :]:
        axes.axis("off")
    figure.suptitle(headline(result), fontsize=10)
    return figure


def outer_panels(result: Result, lines: list[dict[str, Any]]) -> list[Panel]:
    """Return panels of what outer steps did to policies, against meta-iterations: one for each of ``OUTER``.

    Those of which the run has no column are left out.

    Args:
        result: the run's result.
        lines: the lines of the run's journal.
    """
    training = [of for of in lines if of["split"] == "train"]
    known = [({name: words for name, words in of.items() if any(name in row for row in training)}, axis)
             for of, axis in OUTER]  # fmt: skip
    return [partial(_outer, result, training, names, axis) for names, axis in known if names]


def _outer(result: Result, training: list[dict[str, Any]], names: dict[str, str], axis: str, axes: Axes) -> None:
    """Draw one panel: ``names`` are columns of the journal, with the words for each, and ``axis`` what they are."""
    for name, look in zip(names, (INK, SOFT), strict=False):
        at, values = zip(*((of["step"], of[name]) for of in training if name in of), strict=True)
        axes.plot(at, values, color=look, lw=1, marker="." if len(at) < 40 else None, label=names[name])
    if "kl" in names and "backtracks" in training[0] and (bound := result.config.get(MAX_KL)):
        axes.axhline(bound, color="0.6", lw=0.8, ls=":", label="largest allowed")
    axes.set(xlabel="meta-iteration", ylabel=axis)
    if axis == "share":
        axes.set_ylim(min(-0.03, axes.get_ylim()[0]), 1.03)
    axes.xaxis.set_major_locator(whole_numbers())
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3, "frameon": False}
    axes.legend(fontsize=7, columnspacing=1.0, **above)
