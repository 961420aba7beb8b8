from __future__ import annotations

import math

import pytest
import torch

from metarun.core.intervals import Figure, mean_and_interval
from metarun.core.metric import SQUARED_ERROR


def test_tasks_that_diverged_count_with_the_worst_value() -> None:
    values, diverged = torch.tensor([0.8, math.nan, 0.4, 0.2]), torch.tensor([False, True, False, True])
    figure = Figure.of(values, diverged, worst=0.0)
    assert figure.mean == pytest.approx(0.3) and (figure.tasks, figure.diverged, figure.known) == (4, 2, True)
    assert figure.ci95 == pytest.approx(mean_and_interval(torch.tensor([0.8, 0.0, 0.4, 0.0]))[1])
    assert not Figure.of(values, torch.ones(4, dtype=torch.bool), worst=0.0).known
    error = Figure.of(values, diverged, SQUARED_ERROR.worst)
    assert error.mean == math.inf and not error.known


def test_interval_over_tasks() -> None:
    values = torch.tensor([1.0, 0.0, 1.0, 1.0])
    mean, half = mean_and_interval(values)
    assert mean == 0.75
    assert half == pytest.approx(1.96 * 0.5 / 2)  # s = 0.5, n = 4
    assert math.isnan(mean_and_interval(values[:1])[1])
