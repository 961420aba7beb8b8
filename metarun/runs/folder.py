"""Run folders: which one a run gets, whether it is finished, and the lock that admits one process at a time."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from metarun.errors import UserError
from metarun.files import read_file, user_path
from metarun.results import page
from metarun.results.result_file import read as read_result
from metarun.runs import held_out
from metarun.runs.experiment import Experiment, Resume
from metarun.runs.record import CONFIG, EXTENDED, Record

RESULT, LOCK = "result.json", ".lock"
OUTPUTS = Path("outputs")


def claim(experiment: Experiment, record: Record) -> tuple[Path, filelock.BaseFileLock]:
    """Find or make the folder of a run and lock it.

    Without ``run_dir``, ``resume=auto`` takes the newest unfinished run of this configuration that no process works in.

    Returns:
        The folder and its lock, which the caller must release.

    Raises:
        UserError: ``run_dir`` holds another configuration or other files, or another process works in it.
    """
    if experiment.run_dir is not None:
        run_dir = user_path(experiment.run_dir)
        _fits(run_dir, experiment, record)  # before the lock, so that a refused folder stays unchanged
        lock = _lock(run_dir)
        if lock is None:
            raise UserError(f"run_dir={run_dir}: another process is running in this folder")
        try:
            _fits(run_dir, experiment, record)
        except BaseException:
            lock.release()
            raise
        return run_dir, lock
    name = record.name(experiment)
    if experiment.resume is Resume.auto:
        for run_dir in sorted(OUTPUTS.glob(f"*_{name}*"), reverse=True):
            if _unfinished(run_dir, record) and (lock := _lock(run_dir)):
                print(f"resuming an unfinished run of this configuration (resume=never starts a new one): {run_dir}")
                return run_dir, lock
    run_dir = fresh(OUTPUTS / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{name}")
    lock = _lock(run_dir)
    assert lock is not None, "nobody else knows of this folder"
    return run_dir, lock


def fresh(wanted: Path) -> Path:
    """Make a new folder of this name, or with the suffix _2, _3, ... where the name is taken."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise AssertionError


def same_training(run_dir: Path, record: Record) -> Path | None:
    """Find a finished run in the same parent folder with the same training settings and data; its test may differ."""
    for other in sorted(run_dir.parent.iterdir()):
        with contextlib.suppress(UserError):  # skip damaged folders
            before = Record.read(other) if other != run_dir else None
            same = before is not None and before.training() == record.training() and finished(other)
            if before and same and not _other_data(other, before, record):
                return other
    return None


def finished(run_dir: Path) -> bool:
    """Whether the folder holds an undamaged result of the folder's own configuration."""
    return read_file(run_dir / RESULT) is not None and misfit(run_dir) is None


def complete(run_dir: Path) -> bool:
    """Whether a folder's run has nothing left to do: it has a result, and the report, which is written last."""
    return finished(run_dir) and read_file(run_dir / page.NAME) is not None


def misfit(run_dir: Path) -> str | None:
    """Describe what is wrong with a folder's result; None where it is right, or where there is no result."""
    path = run_dir / RESULT
    if read_file(path) is None:
        return None
    try:
        result = read_result(path)
    except UserError as error:
        return str(error)
    before = Record.read(run_dir)
    other = before is not None and result.config_hash != before.hash()
    return f"{path}: is the result of another configuration" if other else None


def set_aside(path: Path) -> Path:
    """Rename a file to a free name with ``.unfit``, which nothing reads, and return its new path."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.stem}.unfit{'' if number == 1 else f'_{number}'}{path.suffix}")
        if not os.path.lexists(kept):
            return path.rename(kept)
    raise AssertionError


def _unfinished(run_dir: Path, record: Record) -> bool:
    """Whether the folder holds an incomplete run of this configuration; False for a damaged folder."""
    try:
        before = Record.read(run_dir)
        same = before is not None and before.hash() == record.hash() and not _other_data(run_dir, before, record)
        return same and not complete(run_dir)
    except UserError:
        return False


def _fits(run_dir: Path, experiment: Experiment, record: Record) -> None:
    """Raise ``UserError`` where a folder cannot hold a run of this configuration."""
    before = Record.read(run_dir)
    if before is None:
        try:
            others = {path.name for path in run_dir.iterdir()} - {LOCK} if run_dir.is_dir() else set()
            others -= {path.name for path in run_dir.glob(f".{CONFIG}.*.tmp")}  # of a run killed at its start
        except OSError as error:
            raise UserError(f"run_dir={run_dir}: cannot be read ({error.strerror or error})") from None
        if others:
            raise UserError(f"run_dir={run_dir}: holds files that are no metarun run; choose an empty or new folder")
        return
    if experiment.resume is Resume.never:
        raise UserError(f"run_dir={run_dir}: holds a run, and resume=never; choose another folder")
    old, new = before.identity(), record.identity()
    if experiment.extend:  # extend.py has compared the lengths
        ignored = ("steps", EXTENDED)
        old, new = ({k: v for k, v in of.items() if k not in ignored} for of in (old, new))
    for key in experiment.algo.fixed:  # older runs stored what was typed, or a data set's default
        old.pop(key, None), new.pop(key, None)
    differ = [f"{k}: {old.get(k)} there, {new.get(k)} here" for k in {**old, **new} if old.get(k) != new.get(k)]
    if differ:
        raise UserError(f"run_dir={run_dir}: holds a run with another configuration ({'; '.join(differ)})")
    if said := _other_data(run_dir, before, record):
        raise UserError(f"run_dir={run_dir}: holds a run on other data ({said}); choose another folder")


def _other_data(run_dir: Path, before: Record, record: Record) -> str:
    """Describe how the data differ from those of the folder's run; empty where they do not."""
    held_out.refuse_renamed_split(before.data, before.names, before.values, run_dir)
    return held_out.differences(before.data, record.data)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[bool]:
    """Hold a run folder's lock within the context.

    Yields:
        Whether it is held; if not, another process works in the folder.
    """
    lock = _lock(run_dir)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def _lock(run_dir: Path) -> filelock.BaseFileLock | None:
    """Lock the folder until release or the end of this process; None if another process holds the lock."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(run_dir / LOCK, timeout=0)
        lock.acquire()
        return lock
    except filelock.Timeout:
        return None
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"run_dir={run_dir}: cannot be written (what is in its place is no folder)") from None
    except OSError as error:
        which = f"{LOCK}: " if run_dir.is_dir() else ""  # the file may be at fault, and not the folder
        raise UserError(f"run_dir={run_dir}: cannot be written ({which}{error.strerror or error})") from None
