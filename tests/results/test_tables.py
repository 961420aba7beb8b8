from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from metarun.core.intervals import Estimate
from metarun.core.metric import SQUARED_ERROR
from metarun.results import tables
from metarun.results.result import Selected
from tests.support.results import RETURN, result


def test_seeds_are_merged_and_the_two_spreads_kept_apart() -> None:
    (row,) = tables.rows([result(0, 0.90, 0.01), result(1, 0.94, 0.03)])
    assert row.seeds == 2 and row.estimate.mean == pytest.approx(0.92)
    assert row.estimate.ci95 == pytest.approx(math.sqrt((0.01**2 + 0.03**2) / 2))
    assert row.sd_seeds == pytest.approx(0.04 / math.sqrt(2))
    assert "| 92.00 ± 2.24 % | 2 | 2.83 % |" in tables.markdown([row])


def test_other_differences_are_other_rows() -> None:
    rows = tables.rows([result(), result(way=20), result(1)])
    assert sorted(row.seeds for row in rows) == [1, 2]
    (single,) = (row for row in rows if row.seeds == 1)
    assert math.isnan(single.sd_seeds) and tables.markdown([single]).splitlines()[2].endswith("| 1 |  | 20 |")


def test_the_best_comes_first_and_what_diverged_last() -> None:
    means = [0.4, math.nan, 0.2, 0.9]
    found = [row.estimate.mean for row in tables.rows([result(mean=mean, way=i) for i, mean in enumerate(means)])]
    assert found[:3] == [0.9, 0.4, 0.2] and math.isnan(found[3])
    errors = [result(mean=mean, way=i, metric=SQUARED_ERROR) for i, mean in enumerate(means)]
    found = [row.estimate.mean for row in tables.rows(errors)]
    assert found[:3] == [0.2, 0.4, 0.9] and math.isnan(found[3])


def test_a_network_without_batch_norm_stands_beside_the_others() -> None:
    without = result(mean=0.95, memory=1)
    found = [replace(without, scores=[replace(without.scores[0], norm=None)]), result(mean=0.9)]
    assert [row.cells()["norm"] for row in tables.rows(found)] == ["transductive", "none (no batch norm)"]
    panels = {line.panel for line in tables.by_steps(found)}
    assert panels == {"omniglot, 5-way 1-shot, maml 1100/100/423, 600 tasks, norm transductive"}
    (alone,) = tables.by_steps(found[:1])
    assert alone.panel.endswith("norm none (no batch norm)")


def test_the_same_run_twice_counts_once() -> None:
    (row,) = tables.rows([result(), result()])
    assert row.seeds == 1 and math.isnan(row.sd_seeds)


def test_csv_keeps_every_digit() -> None:
    text = tables.comma_separated(tables.rows([result(mean=1 / 3)]))
    assert text.splitlines()[0] == ",".join(tables.COLUMNS) and str(1 / 3) in text


def test_a_column_says_how_many_tasks_diverged() -> None:
    rows = tables.rows([result(diverged=12), result(1, diverged=12), result(way=20)])
    assert sorted(row.estimate.diverged for row in rows) == [0, 24]
    text = tables.markdown(rows)
    assert "| sd between seeds | diverged |" in text and "| 24 of 1200 |" in text and "| 0 of 600 |" in text
    assert "diverged" not in tables.markdown(tables.rows([result()]))
    assert ",24,5\n" in tables.comma_separated(rows)
    (line,) = tables.by_steps([result(diverged=12), result(1, diverged=12)])
    assert [of.diverged for of in line.estimates] == [24]


def test_what_was_tested_before_its_training_was_done_says_so_and_is_merged_with_nothing() -> None:
    early = replace(result(1), trained=40, selected=Selected(rule="last step", step=40, of=100, validation=None))
    rows = tables.rows([early, result(0)])
    names = "maml (unfinished: 40 of 100 meta-iterations)", "maml"
    assert {row.algo for row in rows} == set(names) and all(row.seeds == 1 for row in rows)


def test_a_return_is_written_with_its_unit_and_the_largest_first() -> None:
    found = [result(mean=mean, ci95=2.0, metric=RETURN, way=i) for i, mean in enumerate([-41.26, 7.0, math.nan])]
    rows = tables.rows([*found, result(1, mean=9.0, ci95=2.0, metric=RETURN, way=1)])
    lines = tables.markdown(rows).splitlines()[2:5]
    for line, words in zip(lines, ("8.0 ± 2.0 points | 2 | 1.4 points |", "-41.3 ± 2.0 points | 1 |  |", "not finite"),
                           strict=True):  # fmt: skip
        assert words in line
    assert [row["metric"] for row in csv.DictReader(io.StringIO(tables.comma_separated(rows)))] == ["return"] * 3


DIFFERENCES: list[dict[str, Any]] = [
    {"algo.inner_lr": 0.1},
    {"dataset.split": "lake"},
    {"model.filters": 32},
    {"device.threads": "2"},
    {"eval.norm": "all"},
    {"steps": 7},
    {"model (option)": "mlp"},
    {"algo.inner_lr": 0.1, "model.filters": 32},
    {"algo.inner_lr": 0.1, "model.filters": 32, "way": 20, "algo.frozen": ["body.*"], "device.kind": "cpu"},
]
SETTINGS: dict[str, Any] = {
    "algo.inner_lr": 0.4,
    "dataset.split": "maml",
    "model.filters": 64,
    "device.threads": "auto",
    "device.kind": "auto",
    "eval.norm": "transductive",
    "steps": 5,
    "model (option)": "conv4",
    "algo.frozen": [],
    "shot": 1,
    "eval.shot": 1,
}


@pytest.mark.parametrize("changed", DIFFERENCES, ids=lambda changed: "+".join(changed))
def test_rows_that_differ_show_in_what(changed: dict[str, Any]) -> None:
    found = [result(mean=0.9, **SETTINGS), result(mean=0.8, **{**SETTINGS, **changed})]
    first, second = tables.rows(found)
    names = {key: {"steps": "setting steps", "model (option)": "model"}.get(key, key) for key in changed}
    assert list(first.settings) == [names[key] for key in {**found[0].config, **changed} if key in names]
    for key, value in changed.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        assert second.settings[names[key]] == shown != first.settings[names[key]]
    text, table = tables.comma_separated([first, second]), tables.markdown([first, second])
    header = text.splitlines()[0].split(",")
    assert header == [*tables.COLUMNS, *first.settings]
    assert all(f"| {name} |" in table.splitlines()[0] for name in names.values())
    labels = [line.label for line in tables.by_steps(found)]
    for key, value in changed.items():
        word = f"{key.removesuffix(' (option)')}={value if isinstance(value, str) else json.dumps(value)}"
        assert word in labels[1].split() and word not in labels[0].split()


def test_a_shot_that_the_evaluation_follows_is_one_column() -> None:
    found = [result(**SETTINGS), result(**{**SETTINGS, "shot": 5, "eval.shot": 5})]
    assert [list(row.settings) for row in tables.rows(found)] == [["shot"]] * 2
    assert [line.label for line in tables.by_steps(found)] == ["maml shot=1", "maml shot=5"]


def test_a_setting_that_one_method_has_is_no_column() -> None:
    other = {**SETTINGS, "algo (option)": "protonet"}
    del other["algo.inner_lr"]
    of_other = replace(result(**other), names={"algo": "protonet", "dataset": "omniglot"})
    rows = tables.rows([result(**{**SETTINGS, "algo (option)": "maml"}), of_other])
    assert [row.settings for row in rows] == [{}] * 2


def test_an_ensemble_is_a_row_and_a_line_of_its_own() -> None:
    """Of the same run, beside the single set of parameters; seeds are merged with those of their kind."""
    alone = [result(seed, mean=0.90 + seed / 100) for seed in range(2)]
    several = [replace(of.scores[0], ensemble=5, estimate=Estimate(0.95, 0.01, 600, 0)) for of in alone]
    found = [replace(of, scores=[*of.scores, more]) for of, more in zip(alone, several, strict=True)]
    best, other = tables.rows(found)
    assert (best.algo, best.ensemble, best.seeds, best.estimate.mean) == ("maml (ensemble of 5)", 5, 2, 0.95)
    assert (other.algo, other.ensemble, other.seeds, other.estimate.mean) == ("maml", 1, 2, pytest.approx(0.905))
    assert [line.label for line in tables.by_steps(found)] == ["maml", "maml (ensemble of 5)"]
    assert [score.label for score in found[0].scores] == ["transductive", "transductive, ensemble of 5"]
