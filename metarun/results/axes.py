"""Axes that fit a metric, and lines that stay within them; and how a picture becomes a file."""

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
STRETCH = 100  # how many times the ordinary size an axis reaches up to, however large others are
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"]  # Okabe and Ito 2008
DASHES, MARKERS = ["-", "--", ":", "-."], "osD^vP*X"
Limits = tuple[float, float]


class Scale(enum.Enum):
    """How far apart two values of a metric are seen.

    logit: shares, of which 99 % and 99.9 % differ as 1 % and 0.1 % do. log: errors, which have a smallest value and no
    largest; and what is 0 at best and has no smallest value, as an error with a minus in front. plain: all other
    metrics.
    """

    logit = "logit"
    log = "log"
    plain = "plain"

    @staticmethod
    def of(metric: Metric) -> Scale:
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
        """What is behind the name of an axis."""
        return "" if self is Scale.plain else f" ({self.value} scale)"


def save(figure: Figure, path: Path) -> None:
    """Write the picture, whole or not at all."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, of letters that its font lacks
        figure.savefig(image, dpi=110, bbox_inches="tight", format="png")
    write_atomic(path, image.getvalue())


def label(metric: Metric) -> str:
    """A metric with its unit: ``accuracy, %``."""
    return f"{metric.words},{metric.unit}" if metric.unit else metric.words


def style(i: int) -> dict[str, Any]:
    """Of the i-th of many lines: seven colours, then the same ones with other dashes and markers."""
    turn = i // len(COLOURS)
    dashes, marker = DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "ls": dashes, "marker": marker, "ms": 3.5}


def log_axis(
    axes: Axes, lines: Sequence[Sequence[float]], ends: Sequence[float] | np.ndarray = (), sign: float = 1.0
) -> Limits:
    """A log scale for lines of errors and the ends of their intervals, with numbers at its ticks.

    It ends at ``STRETCH`` times an ordinary line's first or middle value, the larger: beyond lies what diverged.
    sign: -1 for errors with a minus in front, with the small ones on top.
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
    """A plain scale for values as they are read, which ends where they do, or the metric.

    What is more than ``STRETCH`` times further from the middle value than the others are lies beyond.
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
    """A logit scale for shares with such ends of intervals, from one of its marks to another; read times ``factor``."""
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
    """Ticks of what is counted."""
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
    """Estimates times ``factor`` as a line with bars that stays within the axis.

    What lies beyond is on its edge, as a triangle; what is not finite lies beyond the edge of the worst. A cross is
    where tasks diverged.
    """
    at, middle = np.asarray(x, float), factor * np.asarray([of.mean for of in estimates], float)
    bars = factor * np.nan_to_num(np.asarray([of.ci95 for of in estimates], float))
    middle = np.where(np.isfinite(middle), middle, factor * metric.worst)
    bars = np.where(np.isfinite(bars), bars, 0)
    kept, ends = np.clip(middle, *limits), np.clip(np.stack([middle - bars, middle + bars]), *limits)
    axes.errorbar(at, kept, np.abs(ends - kept), capsize=2, lw=1.2, **style)
    for beyond, marker in ((middle > limits[1], "^"), (middle < limits[0], "v")):
        if beyond.any():
            axes.plot(at[beyond], kept[beyond], marker, color=style["color"], ms=8, clip_on=False)
    crossed = np.asarray([of.diverged for of in estimates]) > 0
    if crossed.any():
        axes.plot(at[crossed], kept[crossed], "x", color=BAD, ms=8, clip_on=False)
