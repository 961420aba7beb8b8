"""docs/trackers.md: its walk-through, with what Comet's file then holds, and its own tracker."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from metarun.cli import main as cli
from tests.support.trackers import needs_comet

pytestmark = pytest.mark.full

PAGE = (Path(__file__).parents[2] / "docs/trackers.md").read_text()
SMALL = ["steps=4", "eval.every=2", "log_every=2", "eval.tasks=4", "eval.val_tasks=4", "meta_batch=2"]
SMALL += ["device.compile=false", "device.threads=1", "algo.inner_steps=1", "algo.eval_inner_steps=1"]


def blocks(language: str, after: str) -> list[str]:
    """Blocks of code of the page in their order, from a heading on."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE[PAGE.index(f"## {after}") :], re.M | re.S)
    return [text for written_in, text in found if written_in == language]


@pytest.mark.drawn
@needs_comet
def test_the_walk_through_of_omniglot_in_comet(capsys: pytest.CaptureFixture[str]) -> None:
    """On generated glyphs where there is no Omniglot."""
    words = blocks("", "An experiment")[0].split()[1:]
    assert {"dataset=omniglot", "tracker=comet", "run_dir=outputs/omniglot"} < set(words)
    if not (Path(os.environ.get("METARUN_DATA", "nowhere")) / "omniglot.npz").exists():
        words[words.index("dataset=omniglot")] = "dataset=glyphs"
    assert cli.main([*words, *SMALL, "model.filters=4"]) == 0
    said = capsys.readouterr().out
    (file,) = Path("outputs/omniglot/comet").glob("*.zip")
    assert f"comet upload {file}" in said
    found: dict[str, Any] = {}
    exec(blocks("python", "An experiment")[0], found)
    lines = [json.loads(line) for line in Path("outputs/omniglot/metrics.jsonl").read_text().splitlines()]
    assert found["loss"] == [(line["step"], line["loss"]) for line in lines if line["split"] == "train"] != []
    curves: dict[str, list[Any]] = {}
    for of in found["metrics"]:
        curves.setdefault(of["metricName"], []).append((of["step"], of["metricValue"]))
    for name in ("accuracy", "ci95"):
        assert curves[f"val/{name}"] == [(line["step"], line[name]) for line in lines if line["split"] == "val"] != []
    (score,) = json.loads(Path("outputs/omniglot/result.json").read_text())["scores"]
    for name, key in ("", "mean"), ("_ci95", "ci95"):
        assert [value for _, value in curves[f"test/accuracy/transductive{name}"]] == [score[key]]
    assert found["others"]["test/accuracy/transductive_in_words"] in capsys.readouterr().out
    given = {of["paramName"]: of["paramValue"] for m in found["messages"] for of in [m.get("param")] if of}
    assert given["algo.inner_steps"] == 1 and given["way"] == 5 and "run_dir" not in given
    shown = [m["additional_params"]["figName"] for m in found["messages"] if m.get("file_path")]
    assert shown == ["examples.png", "curves.png", "steps.png", "episodes.png"]


def test_the_pages_own_tracker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine/tracker").mkdir(parents=True)
    (tmp_path / "mine/tracker/lab.py").write_text(blocks("python", "A tracker of your own")[0])
    (tmp_path / "mine/tracker/lab.yaml").write_text(blocks("yaml", "A tracker of your own")[0])
    words = blocks("", "A tracker of your own")[0].split()[1:]
    assert cli.main([*words, "dataset=gaussians", "run_dir=run", *SMALL]) == 0
    assert "tracker=lab: see here.txt" in capsys.readouterr().out
    lines = (tmp_path / "here.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [["run", "2"], ["run", "2"], ["run", "4"], ["run", "4"]]
    assert "'test/accuracy': " in lines[4]
