"""Trackers read a run's folder: each line once, whatever happens between, and a run never waits for one that fails."""

from __future__ import annotations

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metarun import config
from metarun.errors import Interrupted, NotFinite, UserError
from metarun.runs import follow, tracked
from metarun.runs.folder import locked
from metarun.runs.follow import followed, send
from metarun.runs.record import Record
from metarun.trackers.base import Tracker
from tests.support.lab_tracker import Lab, read
from tests.support.runs import finish, write

Run = Callable[..., None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL", 0.01)


@pytest.fixture
def record() -> Record:
    return config.compose(["dataset=gaussians"])[1]


@pytest.fixture
def run_dir(tmp_path: Path, record: Record) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    record.write(folder)
    return folder


@pytest.fixture
def lab(tmp_path: Path) -> dict[str, Tracker]:
    return {"lab": Lab(group=None, patience=20.0, file=str(tmp_path / "lab.jsonl"), fault="none", at_end=False)}


def curve(file: Path) -> list[tuple[str, int]]:
    return [(of["line"][0], of["line"][1]) for of in read(file) if "line" in of]


WHOLE = [("train", 1), ("train", 2), ("val", 2), ("train", 3), ("train", 4), ("val", 4)]


@pytest.mark.parametrize("at_end", [False, True])
def test_all_of_a_run_is_sent_once(
    run_dir: Path, lab: dict[str, Any], record: Record, tmp_path: Path, at_end: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    lab["lab"] = replace(lab["lab"], at_end=at_end, group="sweep")
    (run_dir / "examples.png").write_bytes(b"first")
    with followed(lab, run_dir):
        write(run_dir, range(1, 5))
        (run_dir / "curves.png").write_bytes(b"curves")
        finish(run_dir, record)
    sent = read(tmp_path / "lab.jsonl")
    assert curve(tmp_path / "lab.jsonl") == WHOLE
    values = [of["line"][2] for of in sent if "line" in of]
    assert values[0] == {"train/loss": 1.0} and values[2] == {"val/accuracy": 0.02, "val/ci95": 0.01}  # no nan
    assert sent[0]["open"]["group"] == "sweep" and sent[0]["open"]["settings"] == record.identity()
    assert [of["picture"][:2] for of in sent if "picture" in of] == [["examples.png", 0], ["curves.png", 4]]
    (numbers, facts) = next(of["summary"] for of in sent if "summary" in of)
    assert numbers["test/accuracy/transductive"] == 0.75 and numbers["test/accuracy/transductive_ci95"] == 0.01
    assert facts["test/accuracy/transductive_in_words"] == "75.00 ± 1.00 %, 95 % interval over 600 tasks"
    assert facts["protocol/split"] == "maml 1100/100/423"
    assert sent[-1] == {"close": "run"} and f"tracker=lab: see {tmp_path}" in capsys.readouterr().out
    with followed(lab, run_dir, going=False):
        pass
    assert read(tmp_path / "lab.jsonl") == sent, "there was nothing more to send"


def test_a_resumed_run_goes_on_with_the_same_curve(run_dir: Path, lab: dict[str, Any], tmp_path: Path) -> None:
    """Lines behind the checkpoint are written again; they were sent before."""
    with followed(lab, run_dir):
        write(run_dir, range(1, 4))
    first = json.loads((run_dir / tracked.NAME).read_text())
    with followed(lab, run_dir):
        write(run_dir, range(3, 5), resume=2)
    assert curve(tmp_path / "lab.jsonl") == WHOLE
    again = json.loads((run_dir / tracked.NAME).read_text())
    assert again["lab"]["lines"] == {"train": 4, "val": 4}
    assert {key: again["lab"][key] for key in ("id", "began")} == {key: first["lab"][key] for key in ("id", "began")}


def test_a_file_that_is_made_anew_while_it_is_read(run_dir: Path, lab: dict[str, Any], tmp_path: Path) -> None:
    write(run_dir, range(1, 4))
    with followed(lab, run_dir):
        while len(curve(tmp_path / "lab.jsonl") if (tmp_path / "lab.jsonl").exists() else []) < 4:
            time.sleep(0.01)
        write(run_dir, range(1, 5))  # the checkpoint was lost, so that it begins again
    assert curve(tmp_path / "lab.jsonl") == WHOLE


def test_a_tracker_that_keeps_at_the_end_gets_all_again_after_a_kill(
    run_dir: Path, lab: dict[str, Any], tmp_path: Path
) -> None:
    """What it had in memory is lost, and nothing was marked as sent."""
    lab["lab"] = replace(lab["lab"], at_end=True, fault="raise")
    with pytest.warns(UserWarning, match="the lab is closed"), followed(lab, run_dir):
        write(run_dir, range(1, 5))
    assert curve(tmp_path / "lab.jsonl") == []
    lab["lab"] = replace(lab["lab"], fault="none")
    with followed(lab, run_dir, going=False):
        pass
    assert curve(tmp_path / "lab.jsonl") == WHOLE


FAULTS = {
    "raise": r"^tracker=lab: the lab is closed; the run is not affected, and metarun track \S+ tracker=lab sends the",
    "leave": "^tracker=lab: 7; ",
    "hang": r"^tracker=lab: does not answer within 0\.2 seconds \(tracker\.lab\.patience\); ",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tracker_that_fails_costs_one_warning(
    fault: str, run_dir: Path, lab: dict[str, Any], tmp_path: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others go on; and another time it gets all that it has not."""
    lab["bad"] = replace(lab["lab"], file=str(tmp_path / "bad.jsonl"))
    lab["lab"] = replace(lab["lab"], fault=fault, patience=0.2 if fault == "hang" else 20.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with followed(lab, run_dir):
            write(run_dir, range(1, 5))
            finish(run_dir, record)
    assert len(said) == 1 and said[0].category is UserWarning
    assert re.match(FAULTS[fault], str(said[0].message))
    assert curve(tmp_path / "bad.jsonl") == WHOLE and curve(tmp_path / "lab.jsonl") == []
    assert "tracker=lab" not in capsys.readouterr().out
    with followed({"lab": replace(lab["lab"], fault="none", patience=20.0)}, run_dir, going=False):
        pass
    assert curve(tmp_path / "lab.jsonl") == WHOLE


def test_a_warning_of_a_tracker_is_seen_where_others_are_silenced(run_dir: Path, lab: dict[str, Any]) -> None:
    """``warnings.catch_warnings`` holds for all threads, and torch is often within it."""
    seen: list[str] = []
    lab["lab"] = replace(lab["lab"], fault="raise")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: seen.append(str(message))
        with followed(lab, run_dir) as (follower,), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(run_dir, range(1, 5))
            follower.join(20)
    assert len(seen) == 1 and "the lab is closed" in seen[0]


ENDS: dict[str, tuple[BaseException, bool]] = {
    "diverged": (NotFinite("x"), True),
    "ctrl-c": (Interrupted("x", 2), True),
    "sigterm": (Interrupted("x", 15), False),
    "again": (KeyboardInterrupt(), False),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_stops_waits_for_trackers_unless_it_must_not(
    end: str, run_dir: Path, lab: dict[str, Any], tmp_path: Path
) -> None:
    error, waits = ENDS[end]
    lab["lab"] = replace(lab["lab"], fault="hang", patience=0.5)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as said, pytest.raises(type(error)), followed(lab, run_dir):
        write(run_dir, range(1, 5))
        raise error
    assert (time.monotonic() - began >= 0.5) is waits and len(said) == int(waits)


def test_a_copied_folder_is_another_run(run_dir: Path, lab: dict[str, Any], tmp_path: Path) -> None:
    with followed(lab, run_dir):
        write(run_dir, range(1, 5))
    shutil.copytree(run_dir, tmp_path / "copy")
    lab["lab"] = replace(lab["lab"], file=str(tmp_path / "copy.jsonl"))
    with followed(lab, tmp_path / "copy", going=False):
        pass
    assert curve(tmp_path / "copy.jsonl") == WHOLE
    ids = [json.loads((tmp_path / name / tracked.NAME).read_text())["lab"]["id"] for name in ("run", "copy")]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("text", ["", "[]", '{"lab": 1}', '{"lab": {"id": "x"}}', '{"lab": {"lines": {"train": "4"}}}'])
def test_a_damaged_memory_is_refused(text: str, run_dir: Path, lab: dict[str, Any]) -> None:
    """Not begun anew: a service would have each line twice."""
    (run_dir / tracked.NAME).write_text(text)
    with pytest.raises(UserError, match=r"tracked\.json: damaged"), followed(lab, run_dir):
        pass


def test_paths_of_the_person_are_not_sent(tmp_path: Path, lab: dict[str, Any]) -> None:
    _, record = config.compose(["dataset=image_folder", "dataset.path=/home/ann/secret", "data_root=/home/ann/secret"])
    record.write(tmp_path)
    with followed(lab, tmp_path):
        write(tmp_path, range(1, 3))
    sent = (tmp_path / "lab.jsonl").read_text()
    assert '"dataset.size"' in sent and "secret" not in sent and str(tmp_path.parent) not in sent


def test_a_tracker_is_checked_before_work(lab: dict[str, Any]) -> None:
    lab["lab"].check("lab")
    kind = type("Lost", (Lab,), {"needs": ("not_there_at_all",), "install": "pip install it"})
    with pytest.raises(UserError, match=r"^tracker=lost: needs not_there_at_all, which is not installed: pip inst"):
        kind(group=None, patience=1.0, file="", fault="", at_end=False).check("lost")


def test_a_run_is_sent_later(
    run_dir: Path, lab: dict[str, Any], tmp_path: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unfinished, then the rest; and by no second process while one works on it."""
    write(run_dir, range(1, 3))
    assert send(lab, run_dir) == [] and curve(tmp_path / "lab.jsonl") == WHOLE[:3]
    write(run_dir, range(3, 5), resume=2)
    finish(run_dir, record)
    with locked(run_dir) as mine:
        assert mine and send(lab, run_dir) == [f"{run_dir}: another process is running in this folder"]
    assert curve(tmp_path / "lab.jsonl") == WHOLE[:3]
    assert send(lab, run_dir) == [] and curve(tmp_path / "lab.jsonl") == WHOLE
    capsys.readouterr()
    assert send(lab, run_dir) == [] and len([of for of in read(tmp_path / "lab.jsonl") if "summary" in of]) == 1
    assert capsys.readouterr().out == f"tracker=lab: has all of {run_dir} already\n"
    lab["lab"] = replace(lab["lab"], fault="raise")
    write(run_dir, range(5, 6), resume=4)
    assert send(lab, run_dir) == [f"{run_dir}: tracker=lab: the lab is closed"]
