"""A command that has ended leaves the process as it was."""

from __future__ import annotations

import logging
import os
import pickle
import random
import signal
import socket
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import getbase

from metarun.cli import main as cli
from metarun.cli.train import Jobs
from metarun.engine.ranks import ALONE
from tests.support.runs import drawn

SMALL = ["dataset=sinusoid", "steps=1", "eval.every=0", "eval.tasks=2", "device.compile=false", "device.threads=2"]


def state() -> dict[str, Any]:
    """What a command could change for the whole process."""
    root = logging.getLogger()
    return {
        "warnings": (warnings.showwarning, list(warnings.filters)),
        "argv": list(sys.argv),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "streams": (sys.stdout, sys.stderr),
        "logging": (root.level, list(root.handlers)),
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, getbase()),
        "schemas": ConfigStore.instance().repo.get("schema"),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "random": (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()),  # type: ignore[index]
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "timeout": socket.getdefaulttimeout(),
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert cli.main(["train", f"run_dir={folder / 'run'}", *SMALL]) == 0
    return folder


COMMANDS = {  # words -> exit status
    "train run_dir=one": 0,
    "train -m seed=0,1": 0,
    "train -m seed=0,1 dataset.x_max=-1": 2,
    "train --cfg job": 0,
    "train --cfg hydra": 0,
    "train --hydra-help": 0,
    "train --info nothing": 2,
    "train --info searchpath": 0,
    "train stpes=3": 2,
    "train algo.inner_steps=five": 2,
    "eval run=RUN": 0,
    "eval run=RUN way=3": 2,
    "report RUN out=.": 0,
    "reproduce sinusoid --report out=.": 2,
    "--help": 0,
    "trian": 2,
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_leaves_nothing_behind(
    words: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word.replace("RUN", str(trained / "run")) for word in words.split()]
    if COMMANDS[words] == 0 and given[0] == "train":
        given += SMALL if "--info" not in given else []
    before = state()
    with drawn() if words == "train run_dir=one" else nullcontext():
        assert cli.main(given) == COMMANDS[words]
    after = state()
    assert {key: (before[key], after[key]) for key in before if before[key] != after[key]} == {}


def test_a_hydra_that_the_caller_has_opened_stays_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hydra

    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        assert cli.main(["train", "stpes=3"]) == 2
        assert hydra.compose("mine").a == 1 and str(getbase()) == "1.2"


@pytest.mark.full
def test_a_failed_job_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The jobs of one command are not those of the next."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarun.runs.run.run", lambda *_: (_ for _ in ()).throw(OSError("full")))
    for seeds, failed in ("0", "1 of 1"), ("0,1", "2 of 2"):
        assert cli.main(["train", "-m", f"seed={seeds}", *SMALL]) == 1
        assert f"{failed} jobs failed" in capsys.readouterr().err


def test_a_job_can_be_sent_to_another_process() -> None:
    """As launchers such as submitit's do."""
    sent = pickle.loads(pickle.dumps(Jobs(["seed=0,1"], ALONE).run))
    assert sent.__self__ == Jobs(["seed=0,1"], ALONE)
