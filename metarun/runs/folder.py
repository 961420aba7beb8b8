"""Run folders: what a run is called, which configuration it holds, and that one process at a time works in it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock

from metarun.errors import UserError
from metarun.files import read_file, user_path
from metarun.results import page
from metarun.results.result import read as read_result
from metarun.runs import held_out
from metarun.runs.experiment import Experiment, Resume
from metarun.runs.held_out import Facts

CONFIG, RESULT, LOCK = "config.json", "result.json", ".lock"
OUTPUTS = Path("outputs")
# keys that do not decide the result: paths, resuming, and presets, whose values stand where they are used
NOT_IDENTITY = ("run_dir", "data_root", "resume", "recipe.reference", "dataset.preset")
# settings that are younger than some run folders, by the data set's module, and what those did
LATER = {"image_folder": {"split": "shares", "layers": 1, "min_images": 0, "white": None}}


@dataclass(frozen=True)
class Record:
    """A configuration as plain data: the option chosen in each group, its module, and every value."""

    names: dict[str, str]
    kinds: dict[str, str]
    values: dict[str, Any]
    changed: list[str] = field(default_factory=list)  # settings that are not its recipe's, where it has one
    data: Facts | None = None  # what its data are, as ``held_out.facts`` says; older folders keep none

    def identity(self) -> dict[str, Any]:
        """Dotted key -> value, for every key that decides what the run computes."""
        flat: dict[str, Any] = {f"{group} (option)": name for group, name in self.names.items()}

        def walk(node: dict[str, Any], prefix: str) -> None:
            for key, value in node.items():
                if prefix + key in NOT_IDENTITY:
                    continue
                if isinstance(value, dict):
                    walk(value, f"{prefix}{key}.")
                else:
                    flat[prefix + key] = value

        walk(self.values, "")
        as_before = {f"dataset.{key}": value for key, value in LATER.get(self.kinds.get("dataset", ""), {}).items()}
        return {key: v for key, v in flat.items() if key not in as_before or as_before[key] != v}

    def tested_on(self, which: str) -> Record:
        """The same with this checkpoint for the test, best or last: results of the two are two rows of a table."""
        evaluation = self.values.get("eval")
        chosen = {**evaluation, "select": which} if isinstance(evaluation, dict) else evaluation
        return replace(self, values={**self.values, "eval": chosen})

    def training(self) -> dict[str, Any]:
        """The part of the identity that decides a checkpoint: not how it is tested, nor for which recipe."""
        beside = [key for key in self.identity() if key.startswith("eval.") and key != "eval.every"]
        return {key: value for key, value in self.identity().items() if key not in (*beside, "recipe.name")}

    def hash(self, training_only: bool = False) -> str:
        content = self.training() if training_only else self.identity()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def name(self, experiment: Experiment) -> str:
        """What a run folder is called after its date: algorithm, data set, task and seed."""
        x = experiment
        task = f"{x.way}w{x.eval.shot}s" if x.dataset.has_way else f"{x.eval.shot}s"
        return f"{self.names['algo']}_{self.names['dataset']}_{task}_s{x.seed}"

    @staticmethod
    def read(run_dir: Path) -> Record | None:
        """The record of a run folder, None if there is none. Raises ``UserError`` for one that is damaged."""
        path = run_dir / CONFIG
        data = read_file(path)
        if data is None:
            return None
        try:
            record = Record(**json.loads(data))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: damaged ({error})") from None
        if not record._is_sound():
            raise UserError(f"{path}: damaged (its names, kinds, values, changed and data are not what metarun writes)")
        if later := LATER.get(record.kinds.get("dataset", "")):
            record.values["dataset"] = {**later, **record.values["dataset"]}
        return record

    def _is_sound(self) -> bool:
        """Whether the types are right, which JSON does not say."""
        texts = (self.names, self.kinds)
        if not all(isinstance(part, dict) for part in (*texts, self.values)) or not isinstance(self.changed, list):
            return False
        if not held_out.sound(self.data):
            return False
        named = all(isinstance(text, str) for part in texts for text in part.values())
        return (
            named
            and self.names.keys() == self.kinds.keys()
            and all(isinstance(self.values.get(group), dict) for group in self.kinds)
        )


def departures(identity: dict[str, Any], published: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value, published value) where an identity is not its recipe's.

    Where it ran does not count, nor do settings that only one of the two knows: they came into being in between.
    """
    return {
        key: (value, published[key])
        for key, value in identity.items()
        if key in published and published[key] != value and not key.startswith("device")
    }


def claim(experiment: Experiment, record: Record) -> tuple[Path, filelock.BaseFileLock]:
    """The folder for a run, made, locked and fit for this configuration; the caller releases the lock.

    Raises ``UserError`` for a chosen folder that holds another configuration, other files or a live process.
    """
    if experiment.run_dir is not None:
        run_dir = user_path(experiment.run_dir)
        _fits(run_dir, experiment, record)  # a folder that is refused stays as it was, without a lock
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
                print(f"going on with an unfinished run of this configuration (resume=never begins anew): {run_dir}")
                return run_dir, lock
    run_dir = fresh(OUTPUTS / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{name}")
    lock = _lock(run_dir)
    assert lock is not None, "nobody else knows of this folder"
    return run_dir, lock


def fresh(wanted: Path) -> Path:
    """A new folder of this name, or with _2, _3, ... behind it where the name is taken."""
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
    """A finished run beside this one that trained with the same settings and was tested otherwise."""
    for other in sorted(run_dir.parent.iterdir()):
        with contextlib.suppress(UserError):  # a neighbour that is damaged is none
            before = Record.read(other) if other != run_dir else None
            same = before is not None and before.training() == record.training() and finished(other)
            if before and same and not _other_data(other, before, record):
                return other
    return None


def finished(run_dir: Path) -> bool:
    """Whether the folder holds a result that is whole and of the folder's own configuration."""
    return read_file(run_dir / RESULT) is not None and misfit(run_dir) is None


def complete(run_dir: Path) -> bool:
    """Whether the run of a folder has nothing left to do: there is a result, and the report, which is written last."""
    return finished(run_dir) and read_file(run_dir / page.NAME) is not None


def misfit(run_dir: Path) -> str | None:
    """What is wrong with the result that a folder holds; None where it is right, or there is none."""
    path = run_dir / RESULT
    if read_file(path) is None:
        return None
    try:
        result = read_result(path)
    except UserError as error:
        return str(error)
    before = Record.read(run_dir)
    other = before is not None and result.get("config_hash") != before.hash()
    return f"{path}: is the result of another configuration" if other else None


def set_aside(path: Path) -> Path:
    """Give a file a name under which nothing looks for it, and return that."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.stem}.unfit{'' if number == 1 else f'_{number}'}{path.suffix}")
        if not os.path.lexists(kept):
            return path.rename(kept)
    raise AssertionError


def _unfinished(run_dir: Path, record: Record) -> bool:
    """Whether the folder holds a run of this configuration that is not complete; a damaged folder holds none."""
    try:
        before = Record.read(run_dir)
        same = before is not None and before.hash() == record.hash() and not _other_data(run_dir, before, record)
        return same and not complete(run_dir)
    except UserError:
        return False


def _fits(run_dir: Path, experiment: Experiment, record: Record) -> None:
    before = Record.read(run_dir)
    if before is None:
        try:
            others = {path.name for path in run_dir.iterdir()} - {LOCK} if run_dir.is_dir() else set()
            others -= {path.name for path in run_dir.glob(f".{CONFIG}.*.tmp")}  # killed as it began
        except OSError as error:
            raise UserError(f"run_dir={run_dir}: cannot be read ({error.strerror or error})") from None
        if others:
            raise UserError(f"run_dir={run_dir}: holds files that are no metarun run; choose an empty or new folder")
        return
    if experiment.resume is Resume.never:
        raise UserError(f"run_dir={run_dir}: holds a run, and resume=never; choose another folder")
    old, new = before.identity(), record.identity()
    for key in experiment.algo.fixed:  # runs of before have what was typed or a data set's default there
        old.pop(key, None), new.pop(key, None)
    differ = [f"{k}: {old.get(k)} there, {new.get(k)} here" for k in {**old, **new} if old.get(k) != new.get(k)]
    if differ:
        raise UserError(f"run_dir={run_dir}: holds a run with another configuration ({'; '.join(differ)})")
    if said := _other_data(run_dir, before, record):
        raise UserError(f"run_dir={run_dir}: holds a run on other data ({said}); choose another folder")


def _other_data(run_dir: Path, before: Record, record: Record) -> str:
    """How the data are no longer those of the folder's run, in words; empty where they are."""
    held_out.refuse_renamed_split(before.data, before.names, before.values, run_dir)
    return held_out.differences(before.data, record.data)


def _lock(run_dir: Path) -> filelock.BaseFileLock | None:
    """The folder's lock, held until this process ends or lets go; None if another process holds it."""
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
