"""Axes that suit a metric, lines that stay within them, and figures as files."""

from __future__ import annotations

import enum
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from metarun.core.intervals import Estimate
from metarun.core.metric import Metric
from metarun.files import write_atomic
from metarun.results.task_figures import BAD

MARKS = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
STRETCH = 100  # an axis ends at this many times the ordinary size of a value, however large others are
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"]  # Okabe and Ito 2008
DASHES, MARKERS = ["-", "--", ":", "-."], "osD^vP*X"
BETWEEN = "\N{SYMBOL FOR RECORD SEPARATOR}"  # the words of a line's points, in the name that svg.py finds them under
Limits = tuple[float, float]  # (lowest, highest) value on the axis


class Scale(enum.Enum):
    """Scale of an axis for a metric.

    Attributes:
        logit: for shares, where 99 % and 99.9 % are as far apart as 1 % and 0.1 %.
        log: for errors, which have a smallest value and no largest, and for values that are at best 0 and have no
            smallest one, as errors with a minus in front.
        plain: for all other metrics.
    """

    logit = "logit"
    log = "log"
    plain = "plain"

    @staticmethod
    def of(metric: Metric) -> Scale:
        """Choose the scale by the metric's bounds and direction."""
        if metric.bounds == (0, 1):
            return Scale.logit
        error = (-math.inf, 0) if metric.larger_is_better else (0, math.inf)
        return Scale.log if metric.bounds == error else Scale.plain

    @staticmethod
    def sign(metric: Metric) -> float:
        """-1 for an error with a minus in front."""
        return -1.0 if metric.bounds[1] == 0 else 1.0

    @property
    def note(self) -> str:
        """Text after the label of an axis."""
        return "" if self is Scale.plain else f" ({self.value} scale)"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    write_atomic(path, png(figure))


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, of letters that its font lacks
        figure.savefig(image, dpi=110, bbox_inches="tight", format="png")
    return image.getvalue()


def label(metric: Metric) -> str:
    """Return the axis label of a metric, with its unit: ``accuracy, %``."""
    return f"{metric.words},{metric.unit}" if metric.unit else metric.words


def style(i: int) -> dict[str, Any]:
    """Return the style of line i: seven colours, then the same ones with other dashes and markers."""
    turn = i // len(COLOURS)
    dashes, marker = DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "ls": dashes, "marker": marker, "ms": 3.5}


def log_axis(
    axes: Axes, lines: Sequence[Sequence[float]], ends: Sequence[float] | np.ndarray = (), sign: float = 1.0
) -> Limits:
    """Set a log scale for errors.

    It ends at ``STRETCH`` times an ordinary line's first or median value, whichever is larger. Higher values are those
    of tasks that diverged.

    Args:
        axes: where the lines will be drawn.
        lines: values of each line.
        ends: ends of all intervals.
        sign: -1 for errors with a minus in front, which have the small ones on top.
    """
    axes.set_yscale("log") if sign > 0 else axes.set_yscale("symlog", linthresh=1)
    values = sign * np.concatenate([np.empty(0), *(np.asarray(line, float) for line in [*lines, ends])])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return axes.get_ylim()
    each = [[sign * value for value in line if np.isfinite(value)] for line in lines]
    typical = sorted(max(line[0], np.median(line)) for line in each if line) or [np.inf]
    ordinary = typical[(len(typical) - 1) // 2]
    within = values[values <= STRETCH * ordinary]
    low, high = (f(within if len(within) else values) for f in (np.min, np.max))
    low, high = (low / 1.2, high * 1.2)
    locator: Locator = MaxNLocator(4)
    if high / low > 4:
        subs = (1, 1.5, 2, 3, 5, 7) if high / low < 30 else (1, 2, 5) if high / low < 1000 else (1,)
        locator = LogLocator(subs=subs, numticks=8)
    if sign < 0:
        axes.set_yscale("symlog", linthresh=low)  # a log scale as far as it is seen
        locator, low, high = FixedLocator([-tick for tick in locator.tick_values(low, high)]), -high, -low
    axes.set_ylim(low, high)
    _ticks(axes, locator, 1.0)
    return low, high


def plain_axis(axes: Axes, values: Sequence[float] | np.ndarray, metric: Metric) -> Limits:
    """Set a plain scale that ends with the values, or at the bounds of the metric.

    Values that are more than ``STRETCH`` times further from the median than the others lie outside.

    Args:
        axes: where the values will be drawn.
        values: the values as displayed, already times ``metric.scale``.
        metric: the metric.
    """
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return axes.get_ylim()
    away = np.abs(finite - np.median(finite))
    within = finite[away <= STRETCH * np.median(away)] if np.median(away) > 0 else finite
    room = 0.05 * (np.ptp(within) or 1.0)
    low, high = (metric.scale * bound for bound in metric.bounds)
    limits = max(within.min() - room, low), min(within.max() + room, high)
    axes.set_ylim(*limits)
    return limits


def logit_axis(axes: Axes, ends: np.ndarray, factor: float) -> Limits:
    """Set a logit scale that ends at two of ``MARKS``.

    Args:
        axes: where the shares will be drawn.
        ends: ends of all intervals, 0..1.
        factor: a mark is labelled with its value times this.
    """
    axes.set_yscale("logit")
    low, high = (np.clip(end, MARKS[0], MARKS[-1]) for end in (ends.min(), ends.max()))
    low, high = max(m for m in MARKS if m <= low), min(m for m in MARKS if m >= high)
    if low == high:  # so that two are seen
        low = MARKS[max(0, MARKS.index(low) - 1)]
        high = MARKS[min(len(MARKS) - 1, MARKS.index(high) + 1)]
    axes.set_ylim(low, high)
    _ticks(axes, FixedLocator(MARKS), factor)
    return low, high


def whole_numbers() -> Locator:
    """Make a locator of ticks for counts."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def _ticks(axes: Axes, locator: Locator, factor: float) -> None:
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _written(factor * value)))


def _written(value: float) -> str:
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    return f"{sign}{abs(value):.4g}"


def line(
    axes: Axes, metric: Metric, x: Sequence[float], estimates: Sequence[Estimate], limits: Limits, factor: float,
    **style: Any,
) -> None:  # fmt: skip
    """Draw estimates as a line with bars that stays within the axis.

    A value outside is a triangle on the edge; one that is not finite is on the edge of the worst value. A cross marks
    tasks that diverged. The line's name says the value of each point.

    Args:
        axes: where to draw.
        metric: the metric of the estimates.
        x: [n], position of each estimate.
        estimates: n estimates.
        limits: the axis's limits.
        factor: estimates are drawn times this.
        style: of the line, for matplotlib.
    """
    at, middle = np.asarray(x, float), factor * np.asarray([of.mean for of in estimates], float)
    bars = factor * np.nan_to_num(np.asarray([of.ci95 for of in estimates], float))
    middle = np.where(np.isfinite(middle), middle, factor * metric.worst)
    bars = np.where(np.isfinite(bars), bars, 0)
    kept, ends = np.clip(middle, *limits), np.clip(np.stack([middle - bars, middle + bars]), *limits)
    drawn = axes.errorbar(at, kept, np.abs(ends - kept), capsize=2, lw=1.2, **style)
    said = [f"{of.text(metric)} at {place:g}, {style.get('label', '')}" for place, of in zip(x, estimates, strict=True)]
    drawn.lines[0].set_gid(BETWEEN.join(said))
    for beyond, marker in ((middle > limits[1], "^"), (middle < limits[0], "v")):
        if beyond.any():
            axes.plot(at[beyond], kept[beyond], marker, color=style["color"], ms=8, clip_on=False)
    crossed = np.asarray([of.diverged for of in estimates]) > 0
    if crossed.any():
        axes.plot(at[crossed], kept[crossed], "x", color=BAD, ms=8, clip_on=False)
