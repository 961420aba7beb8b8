"""A tracker of the user's own, a Python file and a YAML file, on the real command line: killed, resumed, hanging."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarun.cli import main as cli
from tests.support import lab_tracker
from tests.support.commands import Command
from tests.support.lab_tracker import read
from tests.support.runs import outcome
from tests.support.trackers import curves, events

pytestmark = pytest.mark.full

SMALL = ["dataset=gaussians", "device.compile=false", "device.threads=1", "meta_batch=2", "algo.inner_steps=1"]
SMALL += ["algo.eval_inner_steps=1", "eval.val_tasks=2", "eval.tasks=4"]
LONG = [*SMALL, "steps=60", "eval.every=20", "log_every=1", "checkpoint_every=25"]
OTHERS = {"tensorboard": "tensorboard", "comet": "comet_ml"}  # those of CI, where they are installed
LAB = """\
# @package tracker.lab
defaults:
  - /schema/tracker/lab@_here_

group: null
patience: 30
file: lab.jsonl
fault: none
at_end: false
"""


@pytest.fixture
def mine(tmp_path: Path) -> list[str]:
    """Words of a command line with the user's own tracker."""
    folder = tmp_path / "mine/tracker"
    folder.mkdir(parents=True)
    shutil.copy(lab_tracker.__file__, folder / "lab.py")
    (folder / "lab.yaml").write_text(LAB)
    return ["--config-dir", "mine", "tracker=lab"]


def curve(file: Path) -> list[list]:
    """Split, step and the values that hang on no clock, of each line that was sent."""
    lines = [of["line"] for of in read(file) if "line" in of]
    return [
        [split, step, {name: value for name, value in values.items() if not name.endswith("_per_s")}]
        for split, step, values, _ in lines
    ]


@pytest.mark.parametrize("at_end", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_killed_and_resumed_it_is_the_same_curve(
    metarun_here: Command, tmp_path: Path, mine: list[str], at_end: str
) -> None:
    others = [name for name, module in OTHERS.items() if importlib.util.find_spec(module)]
    words = [*LONG, *mine[:2], f"tracker=[{','.join(['lab', *others])}]", f"tracker.lab.at_end={at_end}"]
    assert metarun_here("train", *words, "run_dir=whole", "tracker.lab.file=whole.jsonl").returncode == 0
    started = [sys.executable, "-m", "metarun", "train", *words, "run_dir=killed", "tracker.lab.file=killed.jsonl"]
    run = subprocess.Popen(started, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched = tmp_path / ("killed.jsonl" if at_end == "false" else "killed/metrics.jsonl")
    wanted = 2 if at_end == "true" else 30  # lines; behind the first checkpoint, so that some are written again
    end = time.monotonic() + 120
    while not watched.exists() or watched.read_text().count("\n") < wanted:
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.001)
    run.kill()
    run.wait()
    done = metarun_here("train", *words, "run_dir=killed", "tracker.lab.file=killed.jsonl")
    assert done.returncode == 0 and "tracker=lab: see killed.jsonl" in done.stdout, done.stderr
    whole, killed = curve(tmp_path / "whole.jsonl"), curve(tmp_path / "killed.jsonl")
    assert len(whole) == 63 and killed == whole
    assert len({of["open"]["id"] for of in read(tmp_path / "killed.jsonl") if "open" in of}) == 1
    assert len([of for of in read(tmp_path / "killed.jsonl") if "summary" in of]) == 1
    losses = [(step, values["train/loss"]) for split, step, values in whole if split == "train"]
    if "tensorboard" in others:
        shown = [(of.step, of.value) for of in events(tmp_path / "killed").Scalars("train/loss")]
        assert shown == [(step, pytest.approx(value)) for step, value in losses]
    if "comet" in others:
        files = sorted((tmp_path / "killed/comet").glob("*.zip"))
        assert len(files) == 1 and curves(files)["train/loss"] == losses


def test_one_that_hangs_does_not_keep_the_process(metarun: Command, tmp_path: Path, mine: list[str]) -> None:
    began = time.monotonic()
    done = metarun(
        "train", *SMALL, "steps=4", "eval.every=0", "run_dir=run", *mine,
        "tracker.lab.fault=hang", "tracker.lab.patience=1", timeout=200,
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "run/report.md").exists() and time.monotonic() - began < 150
    (said,) = [line for line in done.stderr.splitlines() if "warning" in line]
    assert "metarun: warning: tracker=lab: does not answer within 1 seconds" in said


def test_a_run_is_the_same_with_another_tracker_or_none(
    tmp_path: Path, mine: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", *SMALL, "steps=4", "eval.every=2"]
    assert cli.main([*words, "run_dir=without"]) == 0
    assert cli.main([*words, *mine, "run_dir=with", "tracker.lab.group=secret-word"]) == 0
    one, other = outcome(tmp_path / "without"), outcome(tmp_path / "with")
    assert one == other
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("without", "with")]
    for of in configs:
        of["values"].pop("run_dir"), of.pop("sha256")
        of["command"] = [word for word in of["command"] if word not in (*mine, "run_dir=without", "run_dir=with")]
    assert configs[0] == configs[1]
    capsys.readouterr()
    assert cli.main([*words, *mine, "run_dir=without"]) == 0, "a run that is done is sent"
    assert "already done" in capsys.readouterr().out
    sent = read(tmp_path / "lab.jsonl")
    assert [of["close"] for of in sent if "close" in of] == ["with", "without"]
    assert [of["open"]["group"] for of in sent if "open" in of] == ["secret-word", None]


def test_jobs_of_a_sweep_are_a_group(tmp_path: Path, mine: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", *SMALL, "steps=1", "eval.every=0", "seed=0,1", "hydra.sweep.dir=outputs/sweeps/mine"]
    assert cli.main(["train", *words, *mine]) == 0
    assert [of["open"]["group"] for of in read(tmp_path / "lab.jsonl") if "open" in of] == ["mine", "mine"]


WRONG = {  # words -> words of the one line
    "tracker=lob": "tracker=lob lab (did you mean lab?)",
    "tracker=lab,tensorboard": "several trackers are a list tracker=[",
    "tracker=[lab,tensorbord]": "tracker=tensorbord (did you mean tensorboard?)",
    "tracker.lab.file=x": "tracker.lab.file=x choose it: tracker=lab",
    "tracker=lab tracker.lab.fiel=x": "tracker.lab.fiel=x no such key (did you mean tracker.lab.file?)",
    "tracker=lab tracker.lab.patience=0": "tracker.lab.patience=0.0 > 0",
    "tracker=lab tracker.lab.patience=x": "tracker.lab.patience=x a number",
    "~tracker": "tracker=null lab tensorboard",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_one_line(
    words: str, mine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *SMALL, *mine[:2], *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("metarun: error: ") and err.count("\n") == 1 and not (tmp_path / "outputs").exists()
    assert all(word in err for word in WRONG[words].split()), err


FILES = {  # a file of one's own that cannot be -> words of the one line
    "import nothing_there": "lab.py: cannot be imported (ModuleNotFoundError: No module named 'nothing_there')",
    "x = 1": "lab.py: needs exactly one concrete Tracker, has 0",
    "x = (": "lab.py: cannot be imported (SyntaxError",
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_is_no_tracker_is_one_line(
    text: str, mine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/tracker/lab.py").write_text(text)
    assert cli.main(["train", *SMALL, *mine]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and FILES[text] in err


def test_track_sends_every_run_below_a_folder(
    mine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", *SMALL, "steps=1", "eval.every=0", "seed=0,1"]) == 0
    assert cli.main(["track", "outputs", *mine]) == 0
    sent = read(tmp_path / "lab.jsonl")
    assert sorted(of["close"] for of in sent if "close" in of) == sorted(
        file.parent.name for file in tmp_path.glob("outputs/*/config.json")
    )
    assert len([of for of in sent if "summary" in of]) == 2
    capsys.readouterr()
    assert cli.main(["track", "outputs", *mine]) == 0
    assert capsys.readouterr().out.count("tracker=lab: has all of outputs/") == 2
    assert read(tmp_path / "lab.jsonl") == sent
    (tmp_path / "lab.jsonl").unlink()
    for file in tmp_path.glob("outputs/*/tracked.json"):
        file.unlink()
    assert cli.main(["track", "outputs", *mine, "tracker.lab.fault=raise"]) == 2
    assert "tracker=lab: the lab is closed (and 1 more)" in capsys.readouterr().err


TRACK = {  # words -> words of the one line
    "track": "path tracker",
    "track outputs": "path tracker",
    "track tracker=tensorboard": "path tracker",
    "track nowhere tracker=lab": "nowhere: holds no run",
    "track x tracker=lab steps=3": "steps=3: track reads only tracker=",
    "track '' tracker=lab": "path is empty",
    "track x tracker=lob": "tracker=lob (did you mean lab?)",
    "track x tracker=lab,tensorboard": "several trackers are a list",
}


@pytest.mark.parametrize("words", TRACK)
def test_wrong_words_of_track_are_one_line(
    words: str, mine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*shlex.split(words), *mine[:2]]) == 2
    err = capsys.readouterr().err
    assert err.startswith("metarun: error: ") and err.count("\n") == 1
    assert all(word in err for word in TRACK[words].split()), err
