from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metarun import plots


def line(metric: str, mean: list[float], half: float) -> dict[str, Any]:
    steps = list(range(len(mean)))
    return {
        "panel": "p",
        "metric": metric,
        "steps": steps,
        "mean": mean,
        "ci95": [half] * len(mean),
        "label": "l",
        "diverged": [0] * len(mean),
    }


@pytest.mark.parametrize("mean, half", [([0.43], 0.005), ([0.2, 0.95, 0.96], 0.01), ([0.0, 1.0], 0.0), ([0.99], 0.05)])
def test_accuracies_lie_between_two_marks_or_more(mean: list[float], half: float) -> None:
    (axes,) = plots.comparison([line("accuracy", mean, half)]).axes
    low, high = axes.get_ylim()
    assert 0 < low <= max(mean[0], 0.001) and min(mean[-1], 0.999) <= high < 1
    assert sum(low <= mark <= high for mark in axes.get_yticks()) >= 2
    assert np.isfinite(np.asarray(axes.lines[0].get_ydata())).all()


def test_errors_are_on_a_log_scale_and_steps_are_whole_numbers() -> None:
    (axes,) = plots.comparison([line("mse", [3.3, 0.6, 0.4], 0.5)]).axes
    assert axes.get_yscale() == "log"
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_long_paths_begin_at_the_left_and_count_in_plain_numbers() -> None:
    (axes,) = plots.comparison([line("accuracy", [0.2] + [0.9] * 50, 0.01)]).axes
    assert axes.get_xscale() == "symlog" and -1 < axes.get_xlim()[0] < 0
    assert [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()][-3:] == ["10", "20", "50"]
