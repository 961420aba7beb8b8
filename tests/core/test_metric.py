"""How results are read, and which of two is the better one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from metarun import config
from metarun.core.metric import ACCURACY, SQUARED_ERROR, Metric
from metarun.datasets.generated import Generated
from metarun.files import finite
from metarun.runs.setup import build
from tests.support.results import RETURN

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
        (SQUARED_ERROR, 379966530858303296.0, 1.5e18, "3.8e+17 ± 1.5e+18"),
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


def test_how_far_two_values_are_apart() -> None:
    assert (ACCURACY.difference(0.004), SQUARED_ERROR.difference(-0.0121)) == ("+0.40", "-0.012")
    assert RETURN.difference(-3.14) == "-3.1"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (ACCURACY, "accuracy 0"),
        (SQUARED_ERROR, "an infinite error"),
        (RETURN, "an infinitely low return"),
        (replace(ACCURACY, larger_is_better=False, words="error rate"), "error rate 100"),
    ],
)
def test_what_diverged_counts_as_the_worst_there_is(metric: Metric, words: str) -> None:
    assert metric.worst_in_words == words
    assert metric.goodness(metric.worst) <= min(metric.goodness(value) for value in (0.0, 0.5, 1.0))


@pytest.mark.parametrize("metric", [ACCURACY, SQUARED_ERROR, DECIBELS, RETURN], ids=lambda metric: metric.name)
def test_a_metric_survives_json(metric: Metric) -> None:
    assert Metric.of(metric.name, json.loads(json.dumps(finite(metric.facts()), allow_nan=False))) == metric


def test_two_metrics_are_known_by_name_alone() -> None:
    assert Metric.of("accuracy", None) == ACCURACY and Metric.of("mse", None) == SQUARED_ERROR
    with pytest.raises(KeyError):
        Metric.of("return", None)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dataset", config.choices("dataset"))
def test_a_data_set_knows_the_metric_of_its_tasks(dataset: str) -> None:
    words = ["dataset.path=nowhere"] if dataset == "image_folder" else []
    x, _ = config.compose([f"dataset={dataset}", *words])
    known = x.dataset.metric
    if dataset in ("sinusoid", "gaussians", "navigation"):  # which take no time
        assert build(x).problem.metric == known
    if x.dataset.labelled:
        tasks = Generated(x.dataset, torch.device("cpu"))
        assert tasks.problem(lambda params, x: x, x.way).metric == known
