from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metarun import config
from metarun.errors import UserError
from metarun.runs.follow import followed
from metarun.runs.record import Record
from metarun.trackers.base import Tracker
from tests.support.commands import Command
from tests.support.runs import finish, write
from tests.support.trackers import curves, messages, needs_comet
from tests.trackers.conftest import words_of_this_machine

pytestmark = needs_comet


@pytest.fixture
def comet() -> dict[str, Any]:
    return config.compose(["tracker=comet"])[0].tracker


def test_values_are_read_back(run_dir: Path, record: Record, comet: dict[str, Tracker]) -> None:
    before = dict(os.environ)
    comet["comet"].group = "sweep"
    with followed(comet, run_dir):
        write(run_dir, range(1, 5))
        finish(run_dir, record)
    (file,) = run_dir.rglob("*.zip")
    known = json.loads((run_dir / "tracked.json").read_text())["comet"]
    assert file == run_dir / f"comet/{known['id']}_1.zip" and os.environ == before
    of = curves([file])
    assert of["train/loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert of["val/accuracy"] == [(2, 0.02), (4, 0.04)] and of["val/ci95"] == [(2, 0.01), (4, 0.01)]
    assert of["test/accuracy/transductive"][0][1] == 0.75
    told = {payload["key"]: payload["value"] for payload in messages(file) if "key" in payload}
    assert told["test/accuracy/transductive_in_words"] == "75.00 ± 1.00 %, 95 % interval over 600 tasks"
    assert told["Name"] == "run" and told["protocol/split"] == "maml 1100/100/423"
    given = [payload.get("param") or payload.get("params") for payload in messages(file)]
    settings = {of["paramName"]: of["paramValue"] for of in given if of and of["source"] == "manual"}
    assert settings == {key: value for key, value in record.identity().items()}
    shown = [payload for payload in messages(file) if payload.get("file_path")]
    assert [(of["additional_params"]["figName"], of["additional_params"]["step"]) for of in shown] == [
        ("examples.png", 0)
    ]
    with zipfile.ZipFile(file) as archive:
        assert archive.read(shown[0]["file_path"]) == (run_dir / "examples.png").read_bytes()
        about = json.loads(archive.read("experiment.json"))
    assert about["project_name"] == "metarun" and about["tags"] == ["sweep"]


def test_nothing_of_the_person_is_in_the_file(run_dir: Path, record: Record, comet: dict[str, Tracker]) -> None:
    with followed(comet, run_dir):
        write(run_dir, range(1, 5))
        finish(run_dir, record)
    (file,) = run_dir.rglob("*.zip")
    with zipfile.ZipFile(file) as archive:
        assert len(archive.namelist()) == 3  # the messages, the picture, and what the file is
        for name in archive.namelist():
            for word in words_of_this_machine():
                assert word.encode() not in archive.read(name) and word not in name


@pytest.mark.full
def test_no_error_is_reported_to_others() -> None:
    """Comet's own reports of errors, with the machine's name; it makes them in half of its starts: here in all."""
    shown = "import sentry_sdk; print(sentry_sdk.get_client().is_active())"
    always = "import random; random.random = lambda: 1.0"
    for imported, reports in (
        ("import comet_ml", "True"),
        ("import metarun.trackers.comet as of; of._comet()", "False"),
    ):
        code = "; ".join((always, imported, shown))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.strip() == reports


def test_a_stopped_run_goes_on_in_a_second_file(run_dir: Path, comet: dict[str, Tracker]) -> None:
    with pytest.raises(OSError, match="stopped"), followed(comet, run_dir):
        write(run_dir, range(1, 4))
        raise OSError("stopped")
    with followed(comet, run_dir):
        write(run_dir, range(3, 7), resume=2)
    one, other = sorted((run_dir / "comet").glob("*.zip"))
    of = curves([one, other])
    assert [step for step, _ in of["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in of["val/accuracy"]] == [2, 4, 6]
    assert one.name.partition("_")[0] == other.name.partition("_")[0] and not list(run_dir.glob("comet/.*"))
    assert "parameter_msg" not in str(list(messages(other))) and "algo.inner_steps" not in str(list(messages(other)))


def test_what_a_killed_process_left_is_not_sent(run_dir: Path, comet: dict[str, Tracker]) -> None:
    (run_dir / "comet/.unfinished").mkdir(parents=True)
    (run_dir / "comet/.unfinished/x.zip").write_bytes(b"")
    with followed(comet, run_dir):
        write(run_dir, range(1, 5))
    assert len(list(run_dir.rglob("*.zip"))) == 1


def test_online_without_a_key_is_refused_before_work(comet: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = replace(comet["comet"], online=True)
    tracker.check("comet")
    monkeypatch.delenv("COMET_API_KEY")
    with pytest.raises(UserError, match=r"tracker\.comet\.online=true: needs a key, in COMET_API_KEY"):
        tracker.check("comet")


@pytest.mark.full
def test_a_server_that_never_answers_costs_one_warning(metarun: Command, tmp_path: Path) -> None:
    """And it does not keep the process: Comet's own threads wait for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/clientlib/"
        done = metarun(
            "train", "dataset=gaussians", "steps=2", "eval.every=0", "eval.tasks=4", "device.compile=false",
            "run_dir=run", "tracker=comet", "tracker.comet.online=true", "tracker.comet.patience=1",
            env={"COMET_URL_OVERRIDE": address}, timeout=170,
        )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "run/report.md").exists(), done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "comet" in line.lower()]
    assert said.startswith("metarun: warning: tracker=comet: does not answer within 1 seconds")
