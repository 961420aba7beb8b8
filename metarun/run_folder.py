"""Run folders: what a run is called, which configuration it holds, and that one process at a time works in it."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from metarun.errors import UserError
from metarun.experiment import Experiment, Resume

CONFIG, RESULT, LOCK = "config.json", "result.json", ".lock"
OUTPUTS = Path("outputs")
PLACE = ("run_dir", "data_root", "resume", "recipe.reference")  # keys that do not say what is computed


@dataclass(frozen=True)
class Record:
    """A configuration as plain data: the option chosen in each group, its module, and every value."""

    names: dict[str, str]
    kinds: dict[str, str]
    values: dict[str, Any]
    changed: list[str] = field(default_factory=list)  # settings that are not its recipe's, where it has one

    def identity(self) -> dict[str, Any]:
        """Dotted key -> value, for every key that decides what the run computes."""
        flat: dict[str, Any] = {f"{group} (option)": name for group, name in self.names.items()}

        def walk(node: dict[str, Any], prefix: str) -> None:
            for key, value in node.items():
                if isinstance(value, dict):
                    walk(value, f"{prefix}{key}.")
                elif prefix + key not in PLACE:
                    flat[prefix + key] = value

        walk(self.values, "")
        return flat

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
        if not path.exists():
            return None
        try:
            return Record(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error})") from None


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
        run_dir = Path(experiment.run_dir)
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
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError


def same_training(run_dir: Path, record: Record) -> Path | None:
    """A finished run beside this one that trained with the same settings and was tested otherwise."""
    for other in sorted(run_dir.parent.iterdir()):
        if other != run_dir and (other / RESULT).exists():
            before = Record.read(other)
            if before is not None and before.training() == record.training():
                return other
    return None


def _unfinished(run_dir: Path, record: Record) -> bool:
    """Whether the folder holds a run of this configuration without a result; a damaged folder holds none."""
    try:
        before = Record.read(run_dir)
    except UserError:
        return False
    return before is not None and before.hash() == record.hash() and not (run_dir / RESULT).exists()


def _fits(run_dir: Path, experiment: Experiment, record: Record) -> None:
    before = Record.read(run_dir)
    if before is None:
        if any(path.name != LOCK for path in run_dir.iterdir()):
            raise UserError(f"run_dir={run_dir}: holds files that are no metarun run; choose an empty or new folder")
        return
    if experiment.resume is Resume.never:
        raise UserError(f"run_dir={run_dir}: holds a run, and resume=never; choose another folder")
    old, new = before.identity(), record.identity()
    differ = [f"{k}: {old.get(k)} there, {new.get(k)} here" for k in {**old, **new} if old.get(k) != new.get(k)]
    if differ:
        raise UserError(f"run_dir={run_dir}: holds a run with another configuration ({'; '.join(differ)})")


def _lock(run_dir: Path) -> filelock.BaseFileLock | None:
    """The folder's lock, held until this process ends or lets go; None if another process holds it."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(run_dir / LOCK, timeout=0)
        lock.acquire()
        return lock
    except filelock.Timeout:
        return None
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: cannot be written ({error.strerror or error})") from None
