"""One run in its folder: claim the folder, train or resume, test the selected parameters, write the results."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import subprocess
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import matplotlib
import numpy
import torch

import metarun
from metarun import checkpoint, log, plots, report
from metarun.datasets.base import Split
from metarun.errors import UserError
from metarun.evaluate import Score, evaluate, predictions
from metarun.experiment import Bench, Experiment, Resume, Select
from metarun.files import write_json
from metarun.normalize import normalizes
from metarun.signals import StopSignals
from metarun.train import train
from metarun.tree import Params

CONFIG, RESULT, LOCK = "config.json", "result.json", ".lock"
OUTPUTS = Path("outputs")
PLACE = ("run_dir", "data_root", "resume")  # keys that say where and whether, not what


@dataclass(frozen=True)
class Record:
    """A configuration as plain data: the option chosen in each group, its module, and every value."""

    names: dict[str, str]
    kinds: dict[str, str]
    values: dict[str, Any]

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

    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def name(self, experiment: Experiment) -> str:
        """What a run folder is called after its date: algorithm, data set, task and seed."""
        x = experiment
        task = f"{x.way}w{x.shot}s" if x.dataset.has_way else f"{x.shot}s"
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


def run(experiment: Experiment, record: Record) -> Path:
    """Train (or go on, or find it done), test, and report; returns the run folder.

    Raises ``UserError`` for input that cannot be used, ``NotFinite``, and ``Interrupted`` once the state is saved.
    """
    with StopSignals() as stop:
        bench = experiment.build()
        run_dir, lock = claim(experiment, record)
        try:
            if (run_dir / RESULT).exists():
                print(f"already done: {run_dir}")
                return run_dir
            write_json(run_dir / CONFIG, vars(record))
            print(f"run folder: {run_dir} ({bench.device.type}, {bench.how.value})", flush=True)
            stop.wait = True
            state = train(bench, run_dir, stop)
            stop.wait = False
            chosen = state.selection if experiment.eval.select is Select.best else None
            meta, step = (chosen.meta, chosen.step) if chosen else (state.meta, state.step)
            validation = {"mean": chosen.value, "ci95": chosen.ci95} if chosen else None
            test(bench, record, meta, run_dir, run_dir, {"step": step, "validation": validation})
        finally:
            lock.release()
    return run_dir


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
            before = Record.read(run_dir)
            unfinished = before is not None and before.hash() == record.hash() and not (run_dir / RESULT).exists()
            if unfinished and (lock := _lock(run_dir)):
                print(f"going on with an unfinished run of this configuration (resume=never begins anew): {run_dir}")
                return run_dir, lock
    stem = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
    for number in range(1, 1000):
        run_dir = OUTPUTS / (stem if number == 1 else f"{stem}_{number}")
        try:
            run_dir.mkdir(parents=True)
        except FileExistsError:
            continue
        if lock := _lock(run_dir):
            return run_dir, lock
    raise UserError(f"{OUTPUTS / stem}: no free name left")


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


def test(bench: Bench, record: Record, meta: Params, train_dir: Path, out: Path, selected: dict[str, Any]) -> None:
    """Measure meta-parameters on the meta-test tasks; write result.json, report.md and plots into ``out``.

    ``selected`` says which parameters they are: {"step", "validation"}.
    """
    x = bench.experiment
    began = time.perf_counter()
    scores = evaluate(bench, meta, Split.test, x.eval.tasks, x.eval.norm, progress="meta-test")
    seconds = time.perf_counter() - began
    lines = log.read(train_dir)
    training = [line["seconds"] for line in lines]
    rates = [line["tasks_per_s"] for line in lines if line["split"] == "train"]
    rule = "best validation" if selected["validation"] else "last step"
    result = {
        "names": record.names,
        "seed": x.seed,
        "metric": bench.objective.metric_name,
        "protocol": {**bench.protocol(), "selection": f"{rule}, meta-iteration {selected['step']} of {x.steps}"},
        "scores": [_score_entry(bench, score) for score in scores],
        "selected": selected,
        "config_hash": record.hash(),
        "config": record.identity(),
        "code": _code_version(),
        "libraries": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "device": torch.cuda.get_device_name()
        if bench.device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "train_seconds": training[-1] if training else 0.0,
        "test_seconds": round(seconds, 3),
        "tasks_per_s": sorted(rates)[len(rates) // 2] if rates else None,
    }
    norm = scores[0].norm
    episodes = bench.tasks.sample(Split.test, x.eval.seed, range(3), x.way, x.shot, x.eval.query)
    if bench.objective.metric_name == "mse":  # a dense query set draws the whole curve; the support points stay
        episodes = bench.tasks.sample(Split.test, x.eval.seed, range(3), x.way, x.shot, 300)
    outputs = predictions(bench, meta, episodes, norm)
    plots.draw_all(out, result, lines, episodes, outputs)
    report.write(out, result)
    write_json(out / RESULT, result)  # last: a folder with a result is a finished run
    print(report.summary(result))
    print(f"report: {out / report.NAME}")


def _score_entry(bench: Bench, score: Score) -> dict[str, Any]:
    mean, half = score.final()
    norm = score.norm.name if normalizes(bench.module) else "none (no batch norm)"
    return {"norm": norm, "tasks": len(score.metric), "mean": mean, "ci95": half, "by_steps": score.by_steps()}


def _code_version() -> dict[str, str | None]:
    """Version, and the commit where the package runs from a git checkout (+ marks uncommitted changes)."""
    here = Path(metarun.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", "__init__.py") else None
    changed = commit and git("status", "--porcelain", "--", str(here))
    return {"version": metarun.__version__, "commit": f"{commit}{'+' if changed else ''}" if commit else None}


def evaluate_run(run_dir: Path, experiment: Experiment, record: Record, which: Select) -> Path:
    """Measure a run's checkpoint again under another protocol; writes a new folder in ``run_dir/eval``.

    Training files are only read. Raises ``UserError`` where there is no checkpoint to read.
    """
    with StopSignals():
        bench = experiment.build()
        name = checkpoint.BEST if which is Select.best else checkpoint.LAST
        path = checkpoint.folder(run_dir) / name
        if which is Select.best and not path.exists():
            path = checkpoint.folder(run_dir) / checkpoint.LAST
        if not path.exists():
            raise UserError(f"run={run_dir}: has no checkpoint")
        try:
            content = checkpoint.read(path, bench.device)
        except checkpoint.Damaged as error:
            state = checkpoint.load(run_dir, bench.device)
            warnings.warn(f"{error}; taking the parameters from the last good checkpoint", stacklevel=2)
            assert state is not None
            content = vars(state.selection) if which is Select.best and state.selection else vars(state)
        _refuse_other_network(content["meta"], bench.first_meta())
        x = experiment
        stem = f"{x.eval.norm.name}_{x.eval.tasks}tasks_{x.algo.eval_inner_steps}steps"
        for number in range(1, 1000):
            out = run_dir / "eval" / (stem if number == 1 else f"{stem}_{number}")
            try:
                out.mkdir(parents=True)
                break
            except FileExistsError:
                continue
        validation = {"mean": content["value"], "ci95": content["ci95"]} if "value" in content else None
        test(bench, record, content["meta"], run_dir, out, {"step": content["step"], "validation": validation})
    return out


def _refuse_other_network(trained: Params, asked: Params) -> None:
    """Raise ``UserError`` where overrides ask for a network that is not the one that was trained."""
    for name in {**trained, **asked}:
        there, here = (tuple(p[name].shape) if name in p else None for p in (trained, asked))
        if there != here:
            raise UserError(
                f"the checkpoint does not fit: {name} has shape {there} in it and {here} with these overrides; "
                "way and model.* must stay as they were trained"
            )
