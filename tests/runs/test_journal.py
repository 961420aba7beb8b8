from __future__ import annotations

import errno
import json
import math
import os
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
        metrics.write(5, "val", {"mse": math.inf, "ci95": math.nan, "tasks": 4})
        metrics.close()
        for line in (tmp_path / journal.NAME).read_text().splitlines():
            assert '"mse": null, "ci95": null, "tasks": 4' in line
    assert len(journal.read(tmp_path)) == 2 and math.isnan(journal.read(tmp_path)[0]["mse"])


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
    first, last = {"step": 10, "split": "train", "loss": 0.5, "seconds": 1.5}, {**GOOD, "step": 30}
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


@pytest.mark.parametrize("left", [b"", b'{"step": 10, "split": "train", "seconds": 1.0}\n', None])
def test_lines_that_are_lost_are_said(tmp_path: Path, left: bytes | None) -> None:
    """A checkpoint's step is logged before it is saved; None: the whole file is gone."""
    if left is not None:
        (tmp_path / journal.NAME).write_bytes(left)
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: has no line of meta-iteration 20, .* lines are lost"):
        Journal(tmp_path, 20).close()


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
