from __future__ import annotations

import errno
import json
import math
import os
from itertools import pairwise
from pathlib import Path

import pytest

from metarun.errors import UserError
from metarun.runs import journal
from metarun.runs.journal import Journal


def test_lines_come_back(tmp_path: Path) -> None:
    metrics = Journal(tmp_path, 0)
    metrics.write(10, "train", {"loss": 0.5})
    assert [line["loss"] for line in journal.read(tmp_path)] == [0.5]  # before it is closed, too
    metrics.close()
    assert journal.read(tmp_path / "nowhere") == []


def test_what_is_not_finite_is_null_in_the_file_and_nan_here(tmp_path: Path) -> None:
    """Also in the lines that a resumed run takes over."""
    for done in (0, 5):
        metrics = Journal(tmp_path, done)
        metrics.write(5, "train", {"loss": math.nan})
        metrics.write(5, "val", {"mse": math.inf, "ci95": math.nan, "tasks": 4})
        metrics.close()
        text = (tmp_path / journal.NAME).read_text()
        assert text.count('"mse": null, "ci95": null, "tasks": 4') == text.count('"loss": null') == 1 + done // 5
    assert [math.isnan(line["mse"]) for line in journal.read(tmp_path) if line["split"] == "val"] == [True, True]


def test_resume_forgets_what_will_be_written_again(tmp_path: Path) -> None:
    metrics = Journal(tmp_path, 0)
    for step in (10, 20, 30):
        metrics.write(step, "train", {"loss": 1.0})
    metrics.close()
    with open(tmp_path / journal.NAME, "a") as file:
        file.write('{"step": 40, "spl')  # a kill in the middle of a line
    again = Journal(tmp_path, 20)
    again.write(30, "train", {"loss": 2.0})
    again.close()
    lines = journal.read(tmp_path)
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (20, 1.0), (30, 2.0)]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


GOOD = {"step": 20, "split": "val", "accuracy": 0.5, "seconds": 2.0}
ODD = {  # lines that are none of metarun's
    "invalid text": b"\xff\xfe\x00\x80",
    "nul": b"\x00" * 40,
    "utf-16": json.dumps(GOOD).encode("utf-16"),
    "empty": b"",
    "a number": b"7",
    "a list": b'[1, "step"]',
    "deep": b"[" * 100_000,
    "many digits": b'{"step": ' + b"1" * 10_000 + b', "split": "val", "seconds": 1' + b"0" * 9_000 + b"}",
    "seconds that no float holds": b'{"step": 20, "split": "val", "seconds": 1' + b"0" * 400 + b"}",
    "a number that no float holds": b'{"step": 20, "split": "val", "seconds": 1, "lr": -1' + b"0" * 400 + b"}",
    "no step": json.dumps({"split": "val", "seconds": 1.0}).encode(),
    "step as text": json.dumps({**GOOD, "step": "20"}).encode(),
    "step as a truth": json.dumps({**GOOD, "step": True}).encode(),
    "half a step": json.dumps({**GOOD, "step": 2.5}).encode(),
    "no seconds": json.dumps({"step": 20, "split": "val"}).encode(),
    "seconds before time": json.dumps({**GOOD, "seconds": -1}).encode(),
    "no time": b'{"step": 20, "split": "val", "seconds": NaN}',
    "another split": json.dumps({**GOOD, "split": "test"}).encode(),
    "a list for a split": json.dumps({**GOOD, "split": []}).encode(),
    "text for a number": json.dumps({**GOOD, "accuracy": "high"}).encode(),
    "huge": b"x" * 1_000_000,
    "html": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("odd", ODD)
def test_a_line_that_is_none_is_left_out_and_the_others_stay(tmp_path: Path, odd: str) -> None:
    first, last = {"step": 20, "split": "train", "loss": 0.5, "seconds": 1.5}, {**GOOD, "step": 30}
    whole = [json.dumps(first).encode(), ODD[odd], json.dumps(GOOD).encode(), json.dumps(last).encode(), b""]
    (tmp_path / journal.NAME).write_bytes(b"\n".join(whole))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: left out 1 of its 4 lines"):
        assert journal.read(tmp_path) == [first, GOOD, last]
    with pytest.warns(UserWarning, match="left out 1"):
        again = Journal(tmp_path, 20)  # as a resume does
    again.write(30, "val", {"accuracy": 0.6})
    again.close()
    lines = journal.read(tmp_path)  # without a warning: the log is metarun's again
    assert lines[:2] == [first, GOOD] and lines[2]["step"] == 30 and lines[2]["seconds"] >= 2.0


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).write_text(json.dumps(GOOD))
    assert journal.read(tmp_path) == [GOOD]


def test_a_log_that_is_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl: is a folder"):
        Journal(tmp_path, 0)


def written(run_dir: Path, done: int = 0, rate: float = 0.1) -> list[bytes]:
    """The lines of a run of 40 meta-iterations, that goes on behind ``done``."""
    run_dir.mkdir(exist_ok=True)
    log = Journal(run_dir, done, done)
    for step in range(done + 10, 50, 10):
        log.write(step, "train", {"loss": 1 / step, "lr": rate, "grad_norm": math.nan})
        log.write(step, "val", {"accuracy": step / 50})
    log.close()
    return (run_dir / journal.NAME).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("gone", [[0], [2], [3, 4], [0, 1, 2, 3, 4, 5, 6]])
def test_lines_that_are_lost_in_between_are_said(tmp_path: Path, gone: list[int]) -> None:
    lines = written(tmp_path)
    (tmp_path / journal.NAME).write_bytes(b"".join(line for i, line in enumerate(lines) if i not in gone))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: lines were changed or lost, the first at meta-iteration"):
        assert len(journal.read(tmp_path)) == 8 - len(gone)


@pytest.mark.parametrize("at", range(8))
def test_a_number_that_is_another_is_said(tmp_path: Path, at: int) -> None:
    lines = written(tmp_path)
    lines[at] = lines[at].replace(b"0.", b"1.", 1)
    (tmp_path / journal.NAME).write_bytes(b"".join(lines))
    with pytest.warns(
        UserWarning, match=rf"changed or lost, the first at meta-iteration {10 * (at // 2 + 1)} or before"
    ):
        assert len(journal.read(tmp_path)) == 8


def test_lines_in_another_order_or_of_another_run_are_said(tmp_path: Path) -> None:
    ours, theirs = written(tmp_path), written(tmp_path / "other", rate=0.2)
    for lines in ([*ours[:2], ours[3], ours[2], *ours[4:]], [*ours[:4], *theirs[4:]], [*ours[:4], *ours[2:]]):
        (tmp_path / journal.NAME).write_bytes(b"".join(lines))
        with pytest.warns(UserWarning, match="changed or lost"):
            journal.read(tmp_path)


@pytest.mark.parametrize("seal", ["", "0" * 16, "\ud800", "x" * 10_000])
def test_a_seal_that_is_another_is_said(tmp_path: Path, seal: str) -> None:
    lines = written(tmp_path)
    lines[2] = json.dumps({**json.loads(lines[2]), "seal": seal}).encode() + b"\n"
    (tmp_path / journal.NAME).write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match="changed or lost"):
        assert len(journal.read(tmp_path)) == 8


def test_a_run_that_goes_on_keeps_its_seals(tmp_path: Path) -> None:
    """What was changed before is said after it, too."""
    whole = written(tmp_path)
    again = written(tmp_path, 20)
    assert again[:4] == whole[:4] and len(journal.read(tmp_path)) == 8
    again[0] = again[0].replace(b"0.", b"1.", 1)
    (tmp_path / journal.NAME).write_bytes(b"".join(again))
    with pytest.warns(UserWarning, match="the first at meta-iteration 10 "):
        again = written(tmp_path, 20)
    with pytest.warns(UserWarning, match="the first at meta-iteration 10 "):
        assert [of["step"] for of in journal.read(tmp_path)] == [10, 10, 20, 20, 30, 30, 40, 40]
    assert all(json.loads(before)["seal"] != json.loads(line)["seal"] for before, line in pairwise(again))


def test_an_older_log_without_seals_reads_and_goes_on(tmp_path: Path) -> None:
    for line in written(tmp_path / "new"):
        old = json.loads(line)
        old.pop("seal")
        with open(tmp_path / journal.NAME, "a") as file:
            file.write(json.dumps(old) + "\n")
    assert len(journal.read(tmp_path)) == 8
    lines = written(tmp_path, 20)
    assert len(journal.read(tmp_path)) == 8
    (tmp_path / journal.NAME).write_bytes(b"".join(lines[:5] + lines[6:]))
    with pytest.warns(UserWarning, match="the first at meta-iteration 40 or before"):
        journal.read(tmp_path)


@pytest.mark.parametrize("left", [0, 2, None])
def test_last_lines_that_are_lost_are_said(tmp_path: Path, left: int | None) -> None:
    """A checkpoint's step is logged before it is saved; None: the whole file is gone."""
    lines = written(tmp_path)
    path = tmp_path / journal.NAME
    path.write_bytes(b"".join(lines[:left]))
    if left is None:
        path.unlink()
    with pytest.warns(UserWarning) as caught:
        Journal(tmp_path, 20, 10).close()
    said = [str(warning.message) for warning in caught]
    assert f"{path}: has no train line of meta-iteration 20" in said[0] and "lines are lost" in said[0]
    assert len(said) == (1 if left else 2) and all("has no val line of meta-iteration 10" in text for text in said[1:])


def test_a_last_validation_that_is_lost_is_said(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).write_bytes(b"".join(written(tmp_path)[:-1]))
    with pytest.warns(UserWarning, match="has no val line of meta-iteration 40"):
        Journal(tmp_path, 40, 40).close()


@pytest.mark.parametrize("takes", [None, 5, 0])  # bytes of the line that still fit; None: an error at once
def test_a_full_disk_is_said_with_the_path(tmp_path: Path, takes: int | None) -> None:
    metrics = Journal(tmp_path, 0)
    real = metrics._file

    class Full:
        def write(self, data: bytes) -> int:
            if takes is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return takes

        def close(self) -> None:
            real.close()

    metrics._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):
        metrics.write(10, "train", {"loss": 0.5})
    metrics.close()


def test_listeners_hear_every_line_after_it_is_written(tmp_path: Path) -> None:
    heard: list[int] = []

    def listens(line: journal.Line) -> None:
        assert journal.read(tmp_path)[-1]["step"] == line["step"], "it is in the file first"
        heard.append(line["step"])

    log = journal.Journal(tmp_path, 0)
    log.write(1, "train", {"loss": 1.0})
    log.subscribe(listens)
    log.write(2, "train", {"loss": 0.5})
    log.write(2, "val", {"accuracy": 0.5})
    log.close()
    assert heard == [2, 2]


def test_a_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    tail = journal.Tail(tmp_path)
    assert tail.read() == []
    metrics = Journal(tmp_path, 0)
    for step in (1, 2):
        metrics.write(step, "train", {"loss": 1.0})
    assert [line["step"] for line in tail.read()] == [1, 2] and tail.read() == []
    with open(tmp_path / journal.NAME, "ab") as file:
        file.write(b"what is this\n" * 3 + b'{"step": 3, "split": "tr')
    assert tail.read(most=16) == []
    with open(tmp_path / journal.NAME, "ab") as file:
        file.write(b'ain", "seconds": 1.0}\n')
    assert [line["step"] for line in tail.read()] == [3]
    metrics.close()


@pytest.mark.filterwarnings("ignore:.*metrics.jsonl")
def test_a_tail_begins_again_in_a_new_file(tmp_path: Path) -> None:
    metrics = Journal(tmp_path, 0)
    metrics.write(1, "train", {"loss": 1.0})
    metrics.close()
    tail = journal.Tail(tmp_path)
    assert [line["step"] for line in tail.read()] == [1]
    again = Journal(tmp_path, 0)
    again.write(1, "train", {"loss": 1.0})
    again.write(2, "train", {"loss": 1.0})
    again.close()
    assert [line["step"] for line in tail.read()] == [1, 2]
