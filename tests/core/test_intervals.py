from __future__ import annotations

import math

import pytest
import torch

from metarun.core.intervals import Estimate, mean_and_interval, over_seeds
from metarun.core.metric import ACCURACY, SQUARED_ERROR


def test_tasks_that_diverged_count_with_the_worst_value() -> None:
    values, diverged = torch.tensor([0.8, math.nan, 0.4, 0.2]), torch.tensor([False, True, False, True])
    estimate = Estimate.of(values, diverged, worst=0.0)
    assert estimate.mean == pytest.approx(0.3)
    assert (estimate.tasks, estimate.diverged, estimate.known) == (4, 2, True)
    assert estimate.ci95 == pytest.approx(mean_and_interval(torch.tensor([0.8, 0.0, 0.4, 0.0]))[1])
    assert not Estimate.of(values, torch.ones(4, dtype=torch.bool), worst=0.0).known
    error = Estimate.of(values, diverged, SQUARED_ERROR.worst)
    assert error.mean == math.inf and not error.known
    goodness = SQUARED_ERROR.goodness
    assert goodness(math.inf) == goodness(math.nan) == -math.inf < goodness(1e30)


def test_interval_over_tasks() -> None:
    values = torch.tensor([1.0, 0.0, 1.0, 1.0])
    mean, half = mean_and_interval(values)
    assert mean == 0.75
    assert half == pytest.approx(1.96 * 0.5 / 2)  # s = 0.5, n = 4
    assert math.isnan(mean_and_interval(values[:1])[1])


def test_seeds_are_merged_and_the_two_spreads_kept_apart() -> None:
    both, spread = over_seeds([Estimate(0.90, 0.01, 600, 3), Estimate(0.94, 0.03, 600, 4)])
    assert both.mean == pytest.approx(0.92) and both.ci95 == pytest.approx(math.sqrt((0.01**2 + 0.03**2) / 2))
    assert (both.tasks, both.diverged) == (1200, 7) and spread == pytest.approx(0.04 / math.sqrt(2))
    assert math.isnan(over_seeds([both])[1]) and math.isnan(over_seeds([])[0].mean)


def test_an_estimate_says_how_many_tasks_diverged() -> None:
    assert Estimate(0.9, 0.01, 600, 12).text(ACCURACY) == "90.00 ± 1.00 % (12 of 600 tasks diverged)"
    assert Estimate(0.9, 0.01, 600, 0).text(ACCURACY) == "90.00 ± 1.00 %"
    assert Estimate(math.inf, math.nan, None, 3).text(SQUARED_ERROR) == "not finite (3 tasks diverged)"
