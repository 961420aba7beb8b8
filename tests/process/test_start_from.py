"""Runs that go on from something, killed and resumed on the real command line: they end with the same bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def test_a_run_from_the_parameters_of_another(metarun: Command, tmp_path: Path) -> None:
    assert metarun("train", "run_dir=first", "steps=6", "eval.every=3", *RUN).returncode == 0
    words = ["steps=60", "eval.every=30", "seed=1", *RUN]
    assert metarun("train", "run_dir=whole", "init=first", *words).returncode == 0
    kill_in_training(tmp_path, "killed", 12, "init=first", *words)
    assert not (tmp_path / "killed/result.json").exists()
    shutil.move(tmp_path / "first", tmp_path / "moved")
    gone = metarun("train", "run_dir=killed", "init=first", *words)
    assert gone.returncode == 2 and "nothing is there" in gone.stderr and gone.stderr.count("\n") == 1
    without = metarun("train", "run_dir=killed", *words)
    assert without.returncode == 2 and "init (sha256)" in without.stderr
    done = metarun("train", "run_dir=killed", "init=moved", *words)
    assert done.returncode == 0, done.stderr
    assert "init: took 4 of 4 meta-parameters from moved: maml on glyphs" in done.stdout
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "killed")
    assert "already done" in metarun("train", "run_dir=killed", "init=moved", *words).stdout
    page = (tmp_path / "killed/report.md").read_text()
    assert "| init | " in page and "init (sha256) = " in page
