"""Tasks of another way than in training, for methods that make a head for each task."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from metarun import config
from metarun.cli import main as cli
from metarun.core.batch_norm import Norm
from metarun.datasets.base import Split
from metarun.results.result_file import read as read_result
from metarun.runs.evaluate import evaluate
from metarun.runs.setup import build

TINY = [
    *("model=mlp", "model.hidden=[6]", "meta_batch=2", "steps=2", "eval.every=2", "eval.val_tasks=2", "eval.tasks=8"),
    "device.compile=false",
]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("words", [["algo=protomaml"], ["algo=protonet"], ["algo=pretrain", "algo.rates=[0.1]"]])
def test_a_run_of_five_ways_is_tested_in_eight(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of a run, and a later one with eval.way, are the same."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *TINY, *words, "eval.way=8", "run_dir=a", "eval.select=last"]) == 0
    result = read_result(tmp_path / "a/result.json")
    assert result.protocol["task"] == "8-way 1-shot" and result.protocol["train_way"] == 5
    assert cli.main(["eval", "run=a", "eval.way=5"]) == 0
    assert cli.main(["eval", "run=a", "eval.way=8"]) == 0
    (five,) = (tmp_path / "a/eval").glob("*steps/result.json")
    (eight,) = (tmp_path / "a/eval").glob("*steps_8way/result.json")
    assert read_result(eight).scores == result.scores
    assert read_result(five).protocol["task"] == "5-way 1-shot" and "train_way" not in read_result(five).protocol


def test_the_tasks_are_those_of_a_run_of_that_way() -> None:
    """With class means alone, the way of training decides nothing but the shape of a head that is not used."""
    five = build(config.compose([*TINY, "algo=protonet", "eval.way=8"])[0])
    eight = build(config.compose([*TINY, "algo=protonet", "way=8"])[0])
    meta, other = five.first_meta(), eight.first_meta()
    meta = meta._replace(model={**other.model, "head.weight": meta.model["head.weight"]})
    a, b = (evaluate(s, m, Split.test, 6, Norm.transductive)[0] for s, m in ((five, meta), (eight, other)))
    assert a.estimates == b.estimates and dataclasses.astuple(a.estimates[-1])[0] > 0.2
