from __future__ import annotations

import math

import pytest
import torch

from metarun.core.intervals import Estimate, mean_and_interval, over_seeds, student, with_seeds
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


# quantiles of a printed table: Abramowitz and Stegun 1964, table 26.10, A = 0.95
@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042)]
)
def test_students_quantiles_are_those_of_the_printed_table(freedom: int, t: float) -> None:
    assert student(freedom) == pytest.approx(t, abs=6e-4)


def test_from_three_seeds_on_the_interval_has_a_part_for_seeds_and_one_for_tasks() -> None:
    runs = [Estimate(0.90, 0.01, 600, 0), Estimate(0.93, 0.02, 600, 1), Estimate(0.96, 0.02, 600, 0)]
    estimate, of_seeds = with_seeds(runs)
    seeds = 4.302653 * 0.03 / math.sqrt(3)
    tasks = math.sqrt((0.01**2 + 0.02**2 + 0.02**2) / 3)
    assert of_seeds and estimate.ci95 == pytest.approx(math.sqrt(seeds**2 + tasks**2), rel=1e-6)
    assert (estimate.mean, estimate.tasks, estimate.diverged) == (pytest.approx(0.93), 1800, 1)
    assert with_seeds(runs[:2]) == (over_seeds(runs[:2])[0], False) and with_seeds(runs[:1]) == (runs[0], False)
    assert math.isnan(with_seeds([])[0].mean)
    same, _ = with_seeds([Estimate(0.9, 0.02, 600, 0)] * 5)
    assert same.ci95 == pytest.approx(0.02), "trainings that do not vary leave the choice of tasks, which they share"
    lost, _ = with_seeds([*runs, Estimate(math.inf, math.nan, 600, 600)])
    assert not lost.known


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("of_seeds", "of_tasks"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.3), (0.1, 1.0), (1.0, 1.0)])
def test_the_interval_holds_what_it_promises_where_seeds_share_their_tasks(of_seeds: float, of_tasks: float) -> None:
    """By its definition: 95 % of such intervals contain the mean over seeds and tasks, whichever of them varies."""
    repeats, seeds, tasks = 2000, 3, 40
    draws = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    each = of_seeds * normal(repeats, seeds, 1) + of_tasks * math.sqrt(tasks) * normal(repeats, 1, tasks)
    values = each + 0.2 * math.sqrt(tasks) * normal(repeats, seeds, tasks)  # of this seed and this task alone
    held = {"both": 0, "tasks": 0, "seeds": 0}
    for of_one in values:
        runs = [Estimate(*mean_and_interval(run), tasks, 0) for run in of_one]
        estimate, spread = over_seeds(runs)
        halves = {"both": with_seeds(runs)[0].ci95, "tasks": estimate.ci95, "seeds": student(2) * spread / 3**0.5}
        for name, half in halves.items():
            held[name] += abs(estimate.mean) <= half
    assert held["both"] / repeats >= 0.94
    if of_tasks == 0:
        assert held["tasks"] / repeats < 0.6, "the interval over tasks alone is wrong where trainings vary"
    if of_seeds < of_tasks:
        assert held["seeds"] / repeats < 0.9, "and so is the one over seeds alone where they share their tasks"


def test_an_estimate_says_how_many_tasks_diverged() -> None:
    assert Estimate(0.9, 0.01, 600, 12).text(ACCURACY) == "90.00 ± 1.00 % (12 of 600 tasks diverged)"
    assert Estimate(0.9, 0.01, 600, 0).text(ACCURACY) == "90.00 ± 1.00 %"
    assert Estimate(math.inf, math.nan, None, 3).text(SQUARED_ERROR) == "not finite (3 tasks diverged)"
