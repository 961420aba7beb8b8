"""How results are read, and which of two is the better one."""

from __future__ import annotations

import math

import pytest

from metarun.core.metric import ACCURACY, SQUARED_ERROR, Metric

DECIBELS = Metric(
    name="snr",
    words="signal to noise",
    unit=" dB",
    larger_is_better=True,
    scale=1.0,
    digits=1,
    bounds=(-math.inf, 99.0),
)


@pytest.mark.parametrize(
    ("metric", "mean", "half", "words"),
    [
        (ACCURACY, 0.987, 0.004, "98.70 ± 0.40 %"),
        (ACCURACY, 0.2, None, "20.00 %"),
        (ACCURACY, 1.0, math.nan, "100.00 %"),
        (SQUARED_ERROR, 0.3812, 0.03, "0.3812 ± 0.0300"),
        (SQUARED_ERROR, 0.3812, None, "0.3812"),
        (SQUARED_ERROR, math.inf, 0.1, "not finite"),
        (ACCURACY, math.nan, None, "not finite"),
        (DECIBELS, -3.14, 0.26, "-3.1 ± 0.3 dB"),
    ],
)
def test_a_number_as_it_is_read(metric: Metric, mean: float, half: float | None, words: str) -> None:
    assert metric.amount(mean, half) == words
    if math.isfinite(mean) and half is None:
        assert metric.number(mean) == words


@pytest.mark.parametrize("metric", [ACCURACY, SQUARED_ERROR, DECIBELS], ids=lambda metric: metric.name)
def test_the_better_one_comes_first_and_what_is_not_finite_last(metric: Metric) -> None:
    values = [0.4, math.nan, 0.1, math.inf, 0.9, -math.inf]
    order = sorted(values, key=metric.goodness, reverse=True)
    assert order[:3] == ([0.9, 0.4, 0.1] if metric.larger_is_better else [0.1, 0.4, 0.9])
    assert {metric.goodness(value) for value in order[3:]} == {-math.inf}


def test_a_task_that_diverged_counts_with_the_worst_value_there_is() -> None:
    assert (ACCURACY.worst, SQUARED_ERROR.worst, DECIBELS.worst) == (0.0, math.inf, -math.inf)
