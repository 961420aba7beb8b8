"""Verdicts on returns: below 0, larger is better, several published numbers of one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metarun import config
from metarun.core.intervals import Estimate
from metarun.reproduce import rows as comparison
from metarun.reproduce import table
from metarun.reproduce.verdict import Verdict
from metarun.results.result import AfterSteps, OfRecipe, Result, Score
from metarun.runs.recipe import Recipe, Reference
from tests.support.results import result

CELL = "made/up"
PUBLISHED = {0: (-40.4, 4.1), 1: (-11.7, 2.2), 2: (-3.3, 0.6), 3: (-3.2, 0.6)}


def reference(steps: int) -> Reference:
    value, half = PUBLISHED[steps]
    return Reference(value=value, interval=half, interval_of="95 %", source="a table", norm=None, steps=steps, tasks=40,
                     confirmed=True)  # fmt: skip


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (-12.0, 1.0, Verdict.reproduced),
        (-2.0, 1.0, Verdict.above),  # a return nearer to 0 is the better one
        (-30.0, 2.0, Verdict.below),
        (-12.0, 9.0, Verdict.below),  # overlaps with everything
        (float("-inf"), float("nan"), Verdict.below),
    ],
)
def test_a_return_nearer_to_0_is_above(mean: float, half: float, verdict: Verdict) -> None:
    assert Verdict.of(reference(1), mean, half, 1.0, larger_is_better=True) is verdict


@pytest.mark.parametrize("mean", [float("nan"), float("inf")])
def test_an_error_that_is_not_finite_is_below(mean: float) -> None:
    """Tasks diverged, which is worse than any published error."""
    assert Verdict.of(reference(1), mean, float("nan"), 1.0, larger_is_better=False) is Verdict.below


def test_one_run_has_a_row_for_each_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = config.compose(["dataset=navigation", "algo=maml", "algo.outer_optimizer=adam"])
    x = replace(x, recipe=Recipe(name=CELL, reference=[reference(steps) for steps in PUBLISHED]))

    def run(seed: int, *means: float) -> Result:
        path = [
            AfterSteps(steps=k, estimate=Estimate(mean, 0.5, 40, 0), loss=-mean, beside={"sigma": 0.5 + 0.1 * seed})
            for k, mean in enumerate(means)
        ]
        scores = [Score(norm=None, estimate=path[-1].estimate, by_steps=path)]
        made = result(seed, metric=x.dataset.metric)
        return replace(made, recipe=OfRecipe(name=CELL, budget=1.0, changed=[]), scores=scores)

    runs = [run(0, -40.0, -20.0, -3.0, -1.0), run(1, -41.0, -20.0, -3.4, -1.0)]
    monkeypatch.setattr(comparison, "published", lambda cell: (x, None))
    monkeypatch.setattr(comparison, "results", lambda out, cell: runs)
    found = comparison.rows(tmp_path, CELL)
    assert [(row.steps, row.verdict.value) for row in found] == [
        (0, "reproduced"), (1, "below"), (2, "reproduced"), (3, "above"),
    ]  # fmt: skip
    line = table.markdown(found).splitlines()[2 + 1]
    assert "| -20.00 ± 0.50 | 0.55 | -11.70 ± 2.20 | -8.30 | below |" in line
    assert table.markdown(found).splitlines()[0].split(" | ")[9:11] == ["ours", "sigma"]
    assert "sigma" in table.comma_separated(found).splitlines()[0]
    with monkeypatch.context() as bare:
        bare.setattr(comparison, "results", lambda out, cell: [])
        assert "sigma" not in table.markdown(comparison.rows(tmp_path, CELL)), "nothing was measured"
