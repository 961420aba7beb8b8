from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarun import config
from metarun.runs.follow import followed
from metarun.runs.record import Record
from tests.support.commands import Command
from tests.support.runs import finish, write
from tests.trackers.conftest import words_of_this_machine

pytest.importorskip("wandb", reason="wandb is not installed: pip install 'metarun[wandb]'")


@pytest.fixture
def wandb() -> dict[str, Any]:
    return config.compose(["tracker=wandb"])[0].tracker


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: behind 7 bytes a log of LevelDB, of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # the rest of a block
            at += 2**15 - at % 2**15
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def curve(file: Path, name: str) -> list[tuple[int, float]]:
    found = []
    for record in records(file):
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if name in row:
            found.append((record.history.step.num, round(row[name], 6)))
    return found


def test_values_are_read_back(run_dir: Path, record: Record, wandb: dict[str, Any]) -> None:
    wandb["wandb"].group = "sweep"
    with followed(wandb, run_dir):
        write(run_dir, range(1, 5))
        finish(run_dir, record)
    (file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    assert curve(file, "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.333333), (4, 0.25)]
    assert curve(file, "val/accuracy") == [(2, 0.02), (4, 0.04)] and curve(file, "val/ci95")[0] == (2, 0.01)
    begun = next(of.run for of in records(file) if of.HasField("run"))
    known = json.loads((run_dir / "tracked.json").read_text())["wandb"]
    assert (begun.run_id, begun.display_name, begun.run_group) == (known["id"], "run", "sweep")
    settings = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert settings["algo.inner_steps"] == record.identity()["algo.inner_steps"]
    summary = {item.key: json.loads(item.value_json) for of in records(file) for item in of.summary.update}
    assert summary["test/accuracy/transductive"] == 0.75
    assert summary["protocol/split"] == "maml 1100/100/423"
    assert len(list(run_dir.rglob("media/images/examples*.png"))) == 1


def test_nothing_of_the_person_is_in_the_folder(run_dir: Path, record: Record, wandb: dict[str, Any]) -> None:
    with followed(wandb, run_dir):
        write(run_dir, range(1, 5))
        finish(run_dir, record)
    (folder,) = run_dir.glob("wandb/offline-run-*")
    for file in folder.rglob("*"):
        if file.is_file() and "logs" not in file.parts:  # logs stay here
            for word in words_of_this_machine():
                assert word.encode() not in file.read_bytes(), f"{file}: {word}"


def test_a_stopped_run_goes_on_under_its_id(run_dir: Path, wandb: dict[str, Any]) -> None:
    with pytest.raises(OSError, match="stopped"), followed(wandb, run_dir):
        write(run_dir, range(1, 3))
        raise OSError("stopped")
    with followed(wandb, run_dir):
        write(run_dir, range(3, 5), resume=2)
    files = sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    assert [curve(file, "train/loss") for file in files] == [[(1, 1.0), (2, 0.5)], [(3, 0.333333), (4, 0.25)]]
    ids = {of.run.run_id for file in files for of in records(file) if of.HasField("run")}
    assert len(ids) == 1


@pytest.mark.full
def test_online_without_a_key_is_refused_before_work(metarun: Command, tmp_path: Path) -> None:
    """It would ask for one in the middle of the run."""
    words = ["train", "dataset=gaussians", "tracker=wandb", "tracker.wandb.online=true"]
    done = metarun(*words, env={"WANDB_API_KEY": ""})
    assert done.returncode == 2 and not (tmp_path / "outputs").exists()
    said = "metarun: error: tracker.wandb.online=true: needs a key, in WANDB_API_KEY or by wandb login"
    assert done.stderr.splitlines()[-1] == said
