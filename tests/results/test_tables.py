from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from metarun.errors import UserError
from metarun.files import write_json
from metarun.results import tables
from metarun.results.result import Result, find, sealed
from metarun.results.result import read as read_result


def result(seed: int = 0, mean: float = 0.9, ci95: float = 0.01, **config) -> Result:
    content = {
        "names": {"algo": "maml", "dataset": "omniglot"},
        "seed": seed,
        "metric": "accuracy",
        "protocol": {"task": "5-way 1-shot", "split": "maml 1100/100/423", "test_steps": 3},
        "scores": [{"norm": "transductive", "tasks": 600, "mean": mean, "ci95": ci95, "by_steps": []}],
        "config": {"way": 5, "seed": seed, **config},
    }
    return sealed(content)


def test_seeds_are_merged_and_the_two_spreads_kept_apart() -> None:
    (row,) = tables.rows([result(0, 0.90, 0.01), result(1, 0.94, 0.03)])
    assert row["seeds"] == 2 and row["mean"] == pytest.approx(0.92)
    assert row["ci95_tasks"] == pytest.approx(math.sqrt((0.01**2 + 0.03**2) / 2))
    assert row["sd_seeds"] == pytest.approx(0.04 / math.sqrt(2))
    assert "| 92.00 ± 2.24 % | 2 | 2.83 % |" in tables.markdown([row])


def test_other_differences_are_other_rows() -> None:
    rows = tables.rows([result(), result(way=20), result(1)])
    assert sorted(row["seeds"] for row in rows) == [1, 2]
    (single,) = (row for row in rows if row["seeds"] == 1)
    assert math.isnan(single["sd_seeds"]) and tables.markdown([single]).splitlines()[2].endswith("| 1 |  | 20 |")


def test_the_best_comes_first_and_what_diverged_last() -> None:
    means = [0.4, math.nan, 0.2, 0.9]
    found = [row["mean"] for row in tables.rows([result(mean=mean, way=i) for i, mean in enumerate(means)])]
    assert found[:3] == [0.9, 0.4, 0.2] and math.isnan(found[3])
    errors = [sealed({**result(mean=mean, way=i), "metric": "mse"}) for i, mean in enumerate(means)]
    found = [row["mean"] for row in tables.rows(errors)]
    assert found[:3] == [0.2, 0.4, 0.9] and math.isnan(found[3])


def test_a_network_without_batch_norm_stands_beside_the_others() -> None:
    without = result(mean=0.95, memory=1)
    without["scores"][0]["norm"] = "none (no batch norm)"
    found = [sealed(without), result(mean=0.9)]
    assert [row["norm"] for row in tables.rows(found)] == ["transductive", "none (no batch norm)"]
    panels = {line["panel"] for line in tables.by_steps(found)}
    assert panels == {"omniglot, 5-way 1-shot, maml 1100/100/423, 600 tasks, norm transductive"}
    (alone,) = tables.by_steps(found[:1])
    assert alone["panel"].endswith("norm none (no batch norm)")


def test_the_same_run_twice_counts_once() -> None:
    (row,) = tables.rows([result(), result()])
    assert row["seeds"] == 1 and math.isnan(row["sd_seeds"])


def test_csv_keeps_every_digit() -> None:
    text = tables.comma_separated(tables.rows([result(mean=1 / 3)]))
    assert text.splitlines()[0] == ",".join(tables.COLUMNS) and str(1 / 3) in text


def test_damaged_and_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        find([tmp_path])
    for text in ("{", "{}", "[1]"):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(UserError, match=r"result\.json: damaged"):
            find([tmp_path])
    (tmp_path / "result.json").write_text(json.dumps(result()))
    assert find([tmp_path])[0]["seed"] == 0
    edited = {**result(), "seed": 1}
    (tmp_path / "result.json").write_text(json.dumps(edited))
    with pytest.raises(UserError, match=r"result\.json: was changed after metarun wrote it"):
        find([tmp_path])


def diverged(**changes) -> Result:
    content = result()
    content["scores"][0] |= {"diverged": 12, "by_steps": [{"steps": 0, "mean": 0.5, "ci95": 0.1, "diverged": 3}]}
    content["scores"][0] |= changes
    return sealed(content)


def test_a_column_says_how_many_tasks_diverged(tmp_path: Path) -> None:
    rows = tables.rows([diverged(), sealed({**diverged(), "seed": 1}), result(way=20)])
    assert sorted(row["diverged"] for row in rows) == [0, 24]
    text = tables.markdown(rows)
    assert "| sd between seeds | diverged |" in text and "| 24 of 1200 |" in text and "| 0 of 600 |" in text
    assert "diverged" not in tables.markdown(tables.rows([result()]))
    assert ",24,5\n" in tables.comma_separated(rows)
    assert tables.by_steps([diverged()])[0]["diverged"] == [3]
    assert tables.figure("accuracy", diverged()["scores"][0]) == "90.00 ± 1.00 % (12 of 600 tasks diverged)"
    assert tables.figure("mse", {"mean": math.inf, "ci95": math.nan, "diverged": 3}) == "not finite (3 tasks diverged)"


def test_null_is_read_as_nan_and_older_files_with_bare_nan_still_fit(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_json(file, diverged(mean=math.inf, ci95=math.nan))
    assert '"mean": null' in file.read_text()
    assert math.isnan(read_result(file)["scores"][0]["mean"])
    old = {key: value for key, value in result(mean=math.nan).items() if key != "sha256"}
    old["scores"][0]["mean"] = math.nan  # as json.dumps writes it
    old["sha256"] = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(old))
    assert "NaN" in file.read_text() and math.isnan(tables.rows(find([tmp_path]))[0]["mean"])


def test_what_was_tested_before_its_training_was_done_says_so_and_is_merged_with_nothing() -> None:
    early = sealed({**result(1, steps=100), "trained": 40, "selected": {"step": 40, "validation": None}})
    rows = tables.rows([early, result(0, steps=100)])
    names = "maml (unfinished: 40 of 100 meta-iterations)", "maml"
    assert {row["algo"] for row in rows} == set(names) and all(row["seeds"] == 1 for row in rows)
    older = {key: value for key, value in early.items() if key != "trained"}
    assert tables.rows([sealed(older)])[0]["algo"] == names[0]


def test_amounts_carry_their_unit() -> None:
    assert tables.amount("accuracy", 0.987, 0.004) == "98.70 ± 0.40 %"
    assert tables.amount("mse", 0.3812, 0.0301) == "0.3812 ± 0.0301"


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
    assert list(first)[len(tables.COLUMNS) :] == [
        names[key] for key in {**found[0]["config"], **changed} if key in names
    ]
    for key, value in changed.items():
        assert second[names[key]] == (value if isinstance(value, str) else json.dumps(value)) != first[names[key]]
    text, table = tables.comma_separated([first, second]), tables.markdown([first, second])
    header = text.splitlines()[0].split(",")
    assert header == list(first)
    assert all(f"| {name} |" in table.splitlines()[0] for name in names.values())
    labels = [line["label"] for line in tables.by_steps(found)]
    for key, value in changed.items():
        word = f"{key.removesuffix(' (option)')}={value if isinstance(value, str) else json.dumps(value)}"
        assert word in labels[1].split() and word not in labels[0].split()


def test_a_shot_that_the_evaluation_follows_is_one_column() -> None:
    found = [result(**SETTINGS), result(**{**SETTINGS, "shot": 5, "eval.shot": 5})]
    assert [list(row)[len(tables.COLUMNS) :] for row in tables.rows(found)] == [["shot"]] * 2
    assert [line["label"] for line in tables.by_steps(found)] == ["maml shot=1", "maml shot=5"]


def test_a_setting_that_one_method_has_is_no_column() -> None:
    other = {**SETTINGS, "algo (option)": "protonet"}
    del other["algo.inner_lr"]
    content = result(**other)
    content["names"]["algo"] = "protonet"
    rows = tables.rows([result(**{**SETTINGS, "algo (option)": "maml"}), sealed(content)])
    assert [len(row) for row in rows] == [len(tables.COLUMNS)] * 2
