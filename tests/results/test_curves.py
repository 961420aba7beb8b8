from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metarun.core.intervals import Estimate
from metarun.core.metric import ACCURACY, SQUARED_ERROR, Metric
from metarun.results import curves
from metarun.results.result import Result
from metarun.results.tables import Line
from tests.support.results import RETURN, result, score


def line(metric: Metric, mean: list[float], half: float, diverged: tuple[int, ...] = ()) -> Line:
    many = [*diverged, *[0] * (len(mean) - len(diverged))]
    estimates = [Estimate(m, half, 600, n) for m, n in zip(mean, many, strict=True)]
    return Line(panel="p", label="l", metric=metric, steps=list(range(len(mean))), estimates=estimates)


@pytest.mark.parametrize("mean, half", [([0.43], 0.005), ([0.2, 0.95, 0.96], 0.01), ([0.0, 1.0], 0.0), ([0.99], 0.05)])
def test_accuracies_lie_between_two_marks_or_more(mean: list[float], half: float) -> None:
    (axes,) = curves.comparison([line(ACCURACY, mean, half)]).axes
    low, high = axes.get_ylim()
    assert 0 < low <= max(mean[0], 0.001) and min(mean[-1], 0.999) <= high < 1
    assert sum(low <= mark <= high for mark in axes.get_yticks()) >= 2
    assert np.isfinite(np.asarray(axes.lines[0].get_ydata())).all()


def test_errors_are_on_a_log_scale_and_steps_are_whole_numbers() -> None:
    (axes,) = curves.comparison([line(SQUARED_ERROR, [3.3, 0.6, 0.4], 0.5)]).axes
    assert axes.get_yscale() == "log"
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_long_paths_begin_at_the_left_and_count_in_plain_numbers() -> None:
    (axes,) = curves.comparison([line(ACCURACY, [0.2] + [0.9] * 50, 0.01)]).axes
    assert axes.get_xscale() == "symlog" and -1 < axes.get_xlim()[0] < 0
    assert [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()][-3:] == ["10", "20", "50"]


def lines_of_a_run(metric: Metric, values: list[float], **more: Any) -> tuple[Result, list[dict[str, Any]]]:
    lines = []
    for step, value in enumerate(values, 1):
        lines.append({"step": step, "split": "train", metric.name: value, "loss": abs(value)})
        lines.append({"step": step, "split": "val", metric.name: value, "ci95": 0.05, "tasks": 4, **more})
    return result(metric=metric), lines


def test_accuracies_stay_within_0_and_100_and_meta_iterations_are_whole() -> None:
    figure = curves.curves(*lines_of_a_run(ACCURACY, [0.98, 1.0, 0.01]))
    left, right = figure.axes
    assert left.get_ylim()[0] >= 0 and left.get_ylim()[1] <= 100
    bars = np.concatenate([np.asarray(path) for path in left.collections[0].get_segments()])  # type: ignore[attr-defined]
    assert bars[:, 1].min() >= 0 and bars[:, 1].max() <= 100
    for axes in (left, right):
        assert all(tick == round(tick) for tick in axes.get_xticks())
    assert not left.get_legend() and figure.legends, "a legend covers no curve"


@pytest.mark.parametrize("values", [[0.9, 1.0, 1.1], [0.02, 0.3, 0.5], [3.0, 0.004, 80.0], [1e-9, 1.0, 1e7], [2.0]])
def test_a_log_axis_has_numbers(values: list[float]) -> None:
    for axes in curves.curves(*lines_of_a_run(SQUARED_ERROR, values)).axes:
        low, high = axes.get_ylim()
        seen = [tick for tick in axes.get_yticks() if low <= tick <= high]
        assert len(seen) >= 2 and all(axes.yaxis.get_major_formatter()(tick) for tick in seen)
        assert "log scale" in axes.get_ylabel()


@pytest.mark.parametrize("wild", [1e14, np.inf, np.nan])
def test_one_line_that_diverged_does_not_stretch_the_axis(wild: float) -> None:
    sound = line(SQUARED_ERROR, [4.0, 0.5, 0.3], 0.1)
    bad = line(SQUARED_ERROR, [4.0, 50.0, wild], np.nan, diverged=(0, 0, 7))
    (axes,) = curves.comparison([sound, bad, sound]).axes
    assert axes.get_ylim()[1] < 1000
    marks = {str(drawn.get_marker()): drawn for drawn in axes.lines if len(np.asarray(drawn.get_xdata()))}
    for mark in ("^", "x"):  # beyond the axis, and with tasks that diverged
        assert list(np.asarray(marks[mark].get_xdata())) == [2]
        assert np.asarray(marks[mark].get_ydata())[0] == pytest.approx(axes.get_ylim()[1])
    (alone,) = curves.comparison([bad]).axes
    assert alone.get_ylim()[1] < 1e5


def test_tasks_that_diverged_do_not_stretch_a_logit_axis_that_says_what_it_is() -> None:
    bad = line(ACCURACY, [0.2, 0.9, 0.0], 0.01, diverged=(0, 0, 4))
    (axes,) = curves.comparison([bad]).axes
    assert axes.get_ylim()[0] >= 0.1 and "logit scale" in axes.get_ylabel()
    figure = curves.curves(*lines_of_a_run(ACCURACY, [0.5, 0.6], diverged=2))
    assert "some tasks diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_fourteen_step_sizes_are_told_apart() -> None:
    (axes,) = curves.step_sizes({f"layer.{i}": np.full(3, 0.1 + 0.001 * i) for i in range(14)}).axes
    looks = {(drawn.get_color(), drawn.get_linestyle(), drawn.get_marker()) for drawn in axes.lines}
    assert len(looks) == 14 and axes.get_ylim()[0] > 0.09


@pytest.mark.parametrize("wild", [np.nan, -np.inf, -1e9])
def test_a_return_is_on_a_plain_scale_that_what_diverged_does_not_stretch(wild: float) -> None:
    bad = line(RETURN, [-42.0, -40.0, wild], 1.0, diverged=(0, 0, 7))
    best = line(RETURN, [-41.0, 3.0, 7.0], 2.0)
    (axes,) = curves.comparison([bad, best]).axes
    assert axes.get_yscale() == "linear" and axes.get_ylabel() == "meta-test return, points"
    low, high = axes.get_ylim()
    assert -50 < low < -43 and 9 < high < 15
    drawn = [of for of in axes.lines if len(np.asarray(of.get_xdata()))]
    marks = {str(of.get_marker()): of for of in drawn}
    for mark in ("v", "x"):  # below the axis, and with tasks that diverged
        assert list(np.asarray(marks[mark].get_xdata())) == [2] and np.asarray(marks[mark].get_ydata())[0] == low
    first = axes.get_legend()
    assert first is not None and np.asarray(drawn[0].get_ydata()).max() == 7, "the largest is the first"


def test_curves_of_a_return_keep_its_sign() -> None:
    left, _ = curves.curves(*lines_of_a_run(RETURN, [-300.0, -20.0, 50.0])).axes
    assert left.get_yscale() == "linear" and left.get_ylabel() == "return, points"
    low, high = left.get_ylim()
    assert -400 < low < -300 and 50 < high < 150
    assert list(np.asarray(left.lines[0].get_ydata())) == [-300, -20, 50]


def test_a_share_of_which_less_is_better_is_a_share() -> None:
    rate = replace(ACCURACY, name="error_rate", words="error rate", larger_is_better=False)
    bad, good = line(rate, [0.8, 0.6], 0.01), line(rate, [0.8, 0.1], 0.01)
    (axes,) = curves.comparison([bad, good]).axes
    assert axes.get_ylabel() == "meta-test error rate, % (logit scale)"
    assert np.asarray(axes.lines[0].get_ydata())[-1] == 0.1, "the smallest is the first"
    one = replace(result(metric=rate), scores=[score(None, good.estimates)])
    assert curves.steps(one).axes[0].get_ylabel() == "meta-test error rate, % (logit scale)"
