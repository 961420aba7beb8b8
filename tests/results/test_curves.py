from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metarun.core.intervals import Estimate
from metarun.core.metric import ACCURACY, SQUARED_ERROR, Metric
from metarun.results import curves, training
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
    figure = training.curves(*lines_of_a_run(ACCURACY, [0.98, 1.0, 0.01]))
    left, right = figure.axes
    assert left.get_ylim()[0] >= 0 and left.get_ylim()[1] <= 100
    bars = np.concatenate([np.asarray(path) for path in left.collections[0].get_segments()])  # type: ignore[attr-defined]
    assert bars[:, 1].min() >= 0 and bars[:, 1].max() <= 100
    for axes in (left, right):
        assert all(tick == round(tick) for tick in axes.get_xticks())
    assert not left.get_legend() and figure.legends, "a legend covers no curve"


@pytest.mark.parametrize("values", [[0.9, 1.0, 1.1], [0.02, 0.3, 0.5], [3.0, 0.004, 80.0], [1e-9, 1.0, 1e7], [2.0]])
def test_a_log_axis_has_numbers(values: list[float]) -> None:
    for axes in training.curves(*lines_of_a_run(SQUARED_ERROR, values)).axes:
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
    figure = training.curves(*lines_of_a_run(ACCURACY, [0.5, 0.6], diverged=2))
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
    left, _ = training.curves(*lines_of_a_run(RETURN, [-300.0, -20.0, 50.0])).axes
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


BELOW_0 = replace(RETURN, bounds=(-np.inf, 0.0))


def test_what_is_0_at_best_is_on_a_log_scale_with_the_best_on_top() -> None:
    drawn = line(BELOW_0, [-40.0, -11.0, -3.0, -0.6], 0.2)
    (axes,) = curves.comparison([drawn]).axes
    low, high = axes.get_ylim()
    assert low < -40.2 and -0.4 <= high < 0 and "log scale" in axes.get_ylabel()
    at = [axes.transData.transform((0, y))[1] for y in (-40, -20, -2, -1)]
    assert at[1] - at[0] == pytest.approx(at[3] - at[2]) and at[3] > at[0]
    seen = [axes.yaxis.get_major_formatter()(tick) for tick in axes.get_yticks() if low <= tick <= high]
    assert len(seen) >= 3 and all(words.startswith("\N{MINUS SIGN}") for words in seen)


def test_yardsticks_are_grey_lines_or_one_for_each_method() -> None:
    def known(own: float) -> Line:
        estimates = {"hovering": Estimate(-40.0, 4.0, 40, 0), "greedy": Estimate(own, 0.1, 40, 0)}
        return replace(line(BELOW_0, [-40.0, -5.0 + own], 0.2), yardsticks=estimates)

    (axes,) = curves.comparison([known(-2.0), known(-6.0)]).axes
    level = sorted(
        float(np.asarray(of.get_ydata())[0]) for of in axes.lines if len(set(np.asarray(of.get_ydata()))) == 1
    )
    assert level == [-40.0, -6.0, -2.0]
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["l", "l", "hovering", "greedy, in its colour"], "what was learned comes first"
    assert axes.get_ylim()[0] < -40


def acting(**more: float) -> list[dict[str, Any]]:
    rows = [{"step": step, "split": "train", "return": -50.0 / step, "return_before": -60.0, "loss": 1e-10,
             "env_steps": 100.0, "sigma": 1 / step, **more} for step in (2, 4)]  # fmt: skip
    val = {"step": 4, "split": "val", "return": -10.0, "return_before": -55.0, "ci95": 1.0, "tasks": 4, "diverged": 0}
    return [*rows, val]


def test_policies_have_returns_before_and_after_against_environment_steps_and_no_loss() -> None:
    run = result(metric=BELOW_0, meta_batch=20)
    figure = training.curves(run, acting())
    left, right = figure.axes
    assert "environment steps" in right.get_xlabel() and "loss" not in right.get_ylabel()
    labels = left.get_legend_handles_labels()[1]
    assert {"meta-train before adapting", "meta-train after 1 step", "validation after 3 steps, 4 tasks"} <= set(labels)
    by_name = dict(zip((str(of.get_label()) for of in right.lines), right.lines, strict=True))
    # 100 a task, 20 tasks, 2 meta-iterations a line
    assert list(np.asarray(by_name["meta-train before adapting"].get_xdata())) == [4000, 8000]
    assert list(np.asarray(by_name["validation before adapting"].get_xdata())) == [8000]


def test_the_outer_step_has_a_panel_for_each_thing_that_was_noted() -> None:
    assert training.outer(*lines_of_a_run(ACCURACY, [0.5, 0.6])) is None
    run = replace(result(metric=BELOW_0), config={training.MAX_KL: 0.01})
    adam = training.outer(run, acting())
    trpo = training.outer(run, acting(kl=0.004, kl_before=0.0, backtracks=1.0, rejected=0.0))
    assert adam is not None and trpo is not None
    assert [axes.get_ylabel() for axes in adam.axes] == ["sigma of actions"]
    kl, *_ = panels = [axes for axes in trpo.axes if axes.axison]
    assert len(panels) == 4 and "largest allowed" in kl.get_legend_handles_labels()[1]
