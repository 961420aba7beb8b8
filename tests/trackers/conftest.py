"""A run folder, and what must not get out."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path

import pytest

from metarun import config
from metarun.runs import follow
from metarun.runs.record import Record

SECRET = "canary0secret"


@pytest.fixture(autouse=True)
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services are asked for nothing, and keys, home folder and variables of this person could be recognised."""
    monkeypatch.setattr(follow, "POLL", 0.01)
    for name in ("COMET_API_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MY_OWN"):
        monkeypatch.setenv(name, f"{SECRET}{name.replace('_', '')}"[:40].ljust(40, "0"))
    home = tmp_path / f"{SECRET}home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def record() -> Record:
    return config.compose(["dataset=gaussians"])[1]


@pytest.fixture
def run_dir(tmp_path: Path, record: Record) -> Path:
    """A run that has begun, with the picture of its data."""
    folder = tmp_path / "outputs/run"
    folder.mkdir(parents=True)
    record.write(folder)
    picture(folder / "examples.png")
    return folder


def picture(file: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 6), (200, 0, 0)).save(file)


def words_of_this_machine() -> list[str]:
    """What a file that leaves the machine must not have in it."""
    user = getpass.getuser()
    return [SECRET, socket.gethostname(), os.getcwd(), *([user] if user != "root" else [])]
