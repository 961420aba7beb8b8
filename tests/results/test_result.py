"""result.json: what is written is read again, older files as what they meant, and nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate
from metarun.core.metric import ACCURACY, SQUARED_ERROR, Metric
from metarun.errors import UserError
from metarun.files import finite
from metarun.results.result import NO_NORM, OfRecipe, Result, Selected
from metarun.results.result_file import find, read, sealed, write
from tests.support.results import RETURN, result, score

COMMITTED = sorted((Path(__file__).parents[2] / "benchmarks").rglob("result.json"))


@pytest.mark.parametrize("metric", [ACCURACY, SQUARED_ERROR, RETURN], ids=lambda metric: metric.name)
def test_what_is_written_is_read_again(metric: Metric, tmp_path: Path) -> None:
    path = [Estimate(0.1, 0.02, 600, 0), Estimate(0.2, 0.01, 600, 7)]
    written = replace(
        result(metric=metric),
        recipe=OfRecipe(name="omniglot/maml", budget=0.5, changed=["way"]),
        scores=[score(None, path), score(Norm.support, path), replace(score(None, path), ensemble=5)],
        selected=Selected(rule="best validation", step=40, of=100, validation=Estimate(0.3, 0.1, None, 2)),
        trained=60,
        tasks_per_s=3.5,
    )
    write(tmp_path / "result.json", written)
    assert read(tmp_path / "result.json") == written
    assert [score.get("ensemble") for score in written.to_json()["scores"]] == [None, None, 5]
    assert written.unfinished and written.selected.when(60) == "meta-iteration 40 of 100, of a run that had done 60"


def test_null_is_read_as_nan(tmp_path: Path) -> None:
    write(tmp_path / "result.json", result(mean=math.inf, ci95=math.nan))
    assert '"mean": null' in (tmp_path / "result.json").read_text()
    (one,) = read(tmp_path / "result.json").scores
    assert math.isnan(one.estimate.mean) and math.isnan(one.by_steps[0].estimate.ci95) and not one.estimate.known


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: "/".join(file.parts[-4:-1]))
def test_committed_results_mean_what_they_meant(file: Path) -> None:
    """Written again they are the same but for additions, so nothing in them is lost or read as another thing."""
    content = json.loads(file.read_text())
    again = finite(read(file).to_json())
    del content["sha256"]
    assert list(_less(again, content)) == list(content) and _less(again, content) == content
    rule, step, of = (again["selected"][key] for key in ("rule", "step", "of"))
    assert content["protocol"]["selection"] == f"{rule}, meta-iteration {step} of {of}" and again["trained"] == of


def _less(new: Any, old: Any) -> Any:
    """``new`` without what ``old`` does not have, at any depth; additions count no task that diverged."""
    if isinstance(old, dict):
        assert "diverged" in old or new.get("diverged", 0) == 0
        return {key: _less(value, old[key]) for key, value in new.items() if key in old}
    if isinstance(old, list):
        return [_less(a, b) for a, b in zip(new, old, strict=True)]
    return new


def test_older_files_with_bare_nan_still_fit(tmp_path: Path) -> None:
    old = json.loads(json.dumps(result(mean=math.nan).to_json()))  # nan, as json.dumps writes it
    old["protocol"]["selection"] = "last step, meta-iteration 100 of 100"
    del old["metric_facts"], old["trained"], old["selected"]["rule"], old["selected"]["of"]
    old["sha256"] = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    (tmp_path / "result.json").write_text(json.dumps(old))
    assert "NaN" in (tmp_path / "result.json").read_text()
    assert math.isnan(find([tmp_path])[0].scores[0].estimate.mean)


def test_older_files_of_an_unfinished_run(tmp_path: Path) -> None:
    old = result().to_json()
    old["protocol"] = {**old["protocol"], "selection": "last step, meta-iteration 40 of 100"}
    old["selected"] = {"step": 40, "validation": None}
    del old["trained"]
    assert (Result.from_json(old).trained, Result.from_json(old).unfinished) == (40, True)
    old["selected"]["validation"] = {"mean": 0.5, "ci95": 0.1}  # there was a validation, for the whole training
    assert (Result.from_json(old).trained, Result.from_json(old).unfinished) == (100, False)
    old["protocol"]["selection"] = "best validation (of two), meta-iteration 40 of 100, of a run that had done 60"
    assert Result.from_json(old).selected.rule == "best validation (of two)"


def test_damaged_and_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        find([tmp_path])
    file = tmp_path / "result.json"
    for text in ("{", "{}", "[1]"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"result\.json: damaged"):
            find([tmp_path])
    write(file, result())
    assert find([tmp_path])[0].seed == 0
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match=r"result\.json: was changed after metarun wrote it"):
        find([tmp_path])


def at(content: dict[str, Any], *path: str | int) -> Any:
    for key in path:
        content = content[key]  # type: ignore[index]
    return content


SPOILS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no metric of before": lambda c: c.update(metric="return", metric_facts=None),
    "a metric without bounds": lambda c: c["metric_facts"].pop("bounds"),
    "a norm that there is not": lambda c: at(c, "scores", 0).update(norm="none"),
    "a mean in words": lambda c: at(c, "scores", 0).update(mean="0.9"),
    "a mean that no float holds": lambda c: at(c, "scores", 0).update(mean=10**400),
    "a bound that no float holds": lambda c: c["metric_facts"].update(bounds=[0, 10**400]),
    "steps in halves": lambda c: at(c, "scores", 0, "by_steps", 0).update(steps=0.5),
    "a seed in words": lambda c: c.update(seed="0"),
    "no names": lambda c: c.update(names=[]),
    "no settings": lambda c: c.update(config=None),
    "no task": lambda c: c["protocol"].pop("task"),
    "inner steps in words": lambda c: c["protocol"].update(test_steps="3"),
    "no selection": lambda c: c.pop("selected"),
    "a selection of before that says nothing": lambda c: (c["selected"].pop("rule"),
                                                         c["protocol"].update(selection="best")),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILS)
def test_what_is_no_result_is_damaged_though_its_seal_fits(how: str, tmp_path: Path) -> None:
    content = finite(copy.deepcopy(result().to_json()))
    (tmp_path / "result.json").write_text(json.dumps(sealed(content)))
    read(tmp_path / "result.json")
    SPOILS[how](content)
    (tmp_path / "result.json").write_text(json.dumps(sealed(content)))
    with pytest.raises(UserError, match="damaged, or not written by metarun"):
        read(tmp_path / "result.json")


def test_a_network_without_batch_norm_is_one_of_its_own() -> None:
    content = score(None, [Estimate(0.5, 0.1, 4, 0)]).to_json()
    assert content["norm"] == NO_NORM == "none (no batch norm)"
    assert list(content) == ["norm", "mean", "ci95", "tasks", "diverged", "by_steps"]
