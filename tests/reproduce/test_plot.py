from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from metarun.core.intervals import Estimate
from metarun.core.metric import ACCURACY, SQUARED_ERROR
from metarun.reproduce.plot import reproduction
from metarun.reproduce.rows import Row
from metarun.reproduce.verdict import Verdict
from metarun.results.task_figures import BAD, GOOD, INK
from tests.support.results import RETURN

ROW = Row(
    cell="sinusoid/x",
    norm=None,
    ensemble=1,
    steps=1,
    tasks=600,
    query=5,
    split="s",
    rule="last step",
    budget=1.0,
    seeds=1,
    metric=SQUARED_ERROR,
    ours=Estimate(1.0, 0.1, 600, 0),
    ci95_of="tasks",
    ci95_tasks=0.1,
    sd_seeds=math.nan,
    published=1.1,
    published_ci=0.2,
    published_ci_of="",
    verdict=Verdict.reproduced,
    source="",
    confirmed=True,
)


def test_what_was_trained_for_less_is_hollow_also_without_a_published_number() -> None:
    nothing = replace(ROW, published=math.nan, published_ci=math.nan, verdict=Verdict.no_number)
    (axes,) = reproduction([replace(nothing, budget=0.1), nothing]).axes
    circles = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in circles] == ["none", INK]


COLOURS = {Verdict.reproduced: GOOD, Verdict.below: BAD, Verdict.above: INK}


@pytest.mark.parametrize(("verdict", "colour"), COLOURS.items())
def test_a_verdict_has_its_colour(verdict: Verdict, colour: str) -> None:
    (axes,) = reproduction([replace(ROW, verdict=verdict)]).axes
    assert [line.get_color() for line in axes.lines if line.get_marker() == "o"] == [colour]


def test_a_row_whose_interval_is_over_seeds_names_their_number() -> None:
    (axes,) = reproduction([ROW, replace(ROW, seeds=2), replace(ROW, seeds=5, ci95_of="seeds and tasks")]).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["sinusoid/x, none, inner steps 1"] * 2 + ["sinusoid/x, none, inner steps 1, 5 seeds"]


def test_each_metric_has_a_panel_with_its_unit_and_ends() -> None:
    share = replace(ROW, metric=ACCURACY, ours=Estimate(0.99, 0.05, 600, 0), published=0.98, published_ci=0.04)
    points = replace(ROW, metric=RETURN, ours=Estimate(-40.0, 5.0, 600, 0), published=-900.0)
    wild = replace(ROW, ours=Estimate(1e9, 1e10, 600, 3))
    shares, errors, returns = reproduction([points, wild, ROW, share]).axes
    assert [axes.get_xlabel() for axes in (shares, errors, returns)] == [
        "accuracy, %", "mean squared error", "return, points",
    ]  # fmt: skip
    assert shares.get_xlim()[1] == 100 and shares.get_xlim()[0] > 80
    assert errors.get_xlim()[1] == pytest.approx(110), "what diverged leaves the picture"
    assert errors.get_xscale() == "log" and 0.1 < errors.get_xlim()[0] < 1, "its interval, too, and hides no other"
    assert returns.get_xlim()[0] < -900 and returns.get_xlim()[1] > -40
    assert [label.get_text() for label in errors.get_yticklabels()] == ["sinusoid/x, none, inner steps 1"] * 2
    assert np.isfinite([axes.get_xlim() for axes in (shares, errors, returns)]).all()


def test_an_ensemble_has_a_name_of_its_own() -> None:
    (axes,) = reproduction([ROW, replace(ROW, ensemble=5)]).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["sinusoid/x, none, inner steps 1", "sinusoid/x, ensemble of 5, none, inner steps 1"]
