"""Runs that go on from something, killed and resumed: they end with the same bits.

What is killed is a process of the real command line; the others run in this one, for speed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarun.runs import checkpoint
from tests.support.commands import Command
from tests.support.runs import outcome

pytestmark = pytest.mark.full

RUN = [
    *("model=mlp", "model.hidden=[8]", "meta_batch=2", "eval.val_tasks=4", "eval.tasks=8", "log_every=3"),
    *("algo.inner_steps=1", "device.compile=false", "device.threads=1", "checkpoint_every=2"),
]


def kill_in_training(folder: Path, run_dir: str, step: int, *words: str) -> None:
    """Start a run, and kill it with SIGKILL once it has a line of this meta-iteration in its journal."""
    command = [sys.executable, "-m", "metarun", "train", f"run_dir={run_dir}", *words]
    run = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal, end = folder / run_dir / "metrics.jsonl", time.monotonic() + 240
    while run.poll() is None and not (journal.exists() and f'"step": {step},' in journal.read_text()):
        assert time.monotonic() < end
        time.sleep(0.002)
    run.kill()
    run.communicate()


def test_a_run_from_the_parameters_of_another(metarun_here: Command, tmp_path: Path) -> None:
    assert metarun_here("train", "run_dir=first", "steps=6", "eval.every=3", *RUN).returncode == 0
    words = ["steps=60", "eval.every=30", "seed=1", *RUN]
    assert metarun_here("train", "run_dir=whole", "init=first", *words).returncode == 0
    kill_in_training(tmp_path, "killed", 12, "init=first", *words)
    assert not (tmp_path / "killed/result.json").exists()
    shutil.move(tmp_path / "first", tmp_path / "moved")
    gone = metarun_here("train", "run_dir=killed", "init=first", *words)
    assert gone.returncode == 2 and "nothing is there" in gone.stderr and gone.stderr.count("\n") == 1
    without = metarun_here("train", "run_dir=killed", *words)
    assert without.returncode == 2 and "init (sha256)" in without.stderr
    done = metarun_here("train", "run_dir=killed", "init=moved", *words)
    assert done.returncode == 0, done.stderr
    assert "init: took 4 of 4 meta-parameters from moved: maml on glyphs" in done.stdout
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "killed")
    assert "already done" in metarun_here("train", "run_dir=killed", "init=moved", *words).stdout
    page = (tmp_path / "killed/report.md").read_text()
    assert "| init | " in page and "init (sha256) = " in page


def test_more_steps_for_a_finished_run(metarun_here: Command, tmp_path: Path) -> None:
    words = ["eval.every=10", "algo.outer_schedule=none", "checkpoint_every=7", *RUN]
    assert metarun_here("train", "run_dir=once", "steps=60", *words).returncode == 0
    assert metarun_here("train", "run_dir=a", "steps=10", *words).returncode == 0
    short = (tmp_path / "a/result.json").read_bytes()
    for step in (21, 42):
        kill_in_training(tmp_path, "a", step, "steps=60", "extend=true", *words)
        assert not (tmp_path / "a/result.json").exists()
    done = metarun_here("train", "run_dir=a", "steps=60", "extend=true", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/10_steps/result.json").read_bytes() == short
    assert "after 10 meta-iterations; the same as a run of 60 at once" in (tmp_path / "a/report.md").read_text()
    for name in ("last", "best"):
        once, extended = (checkpoint.read(tmp_path / run / f"checkpoints/{name}.pt") for run in ("once", "a"))
        assert once.pop("training") != extended.pop("training")
        assert checkpoint.digest(once) == checkpoint.digest(extended)
    scores = [outcome(tmp_path / run)[2] for run in ("once", "a")]
    assert scores[0] == scores[1]
    table = metarun_here("report", "a")
    assert table.returncode == 0 and "extended (steps)" in table.stdout


def test_early_stopping(metarun_here: Command, tmp_path: Path) -> None:
    words = ["steps=200", "eval.every=10", "eval.patience=3", "algo.outer_lr=1e-30", *RUN]
    whole = metarun_here("train", "run_dir=whole", *words)
    assert whole.returncode == 0 and "stopped early after meta-iteration 40 of 200 (eval.patience=3)" in whole.stdout
    for step in (15, 36):
        kill_in_training(tmp_path, "killed", step, *words)
    done = metarun_here("train", "run_dir=killed", *words)
    assert done.returncode == 0 and "stopped early after meta-iteration 40 of 200" in done.stdout, done.stderr
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "killed")
    assert (
        "meta-iteration 10 of 200, of a run that stopped early after 40" in (tmp_path / "killed/report.md").read_text()
    )
    assert "unfinished" not in metarun_here("report", "killed").stdout
