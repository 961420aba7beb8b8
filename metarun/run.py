"""One run: claim its folder, train or resume, test the selected parameters, write the results."""

from __future__ import annotations

import math
import platform
import subprocess
import time
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import torch

import metarun
from metarun import checkpoint, held_out, log, plots, report, tree
from metarun.algorithms.base import step_sizes
from metarun.datasets.base import Split
from metarun.errors import ConfigError, UserError, in_folder
from metarun.evaluate import Score, evaluate, predictions
from metarun.experiment import Bench, Experiment, Select
from metarun.files import read_file, write_atomic, write_json
from metarun.normalize import Mixing
from metarun.owner import Owner
from metarun.ranks import current
from metarun.run_folder import CONFIG, RESULT, Record, claim, finished, fresh, misfit, same_training, set_aside
from metarun.signals import StopSignals
from metarun.train import train, tuned
from metarun.tree import Params


def run(experiment: Experiment, record: Record) -> Path:
    """Train (or go on, or find it done), test, and report; returns the run folder.

    Raises ``UserError`` for input that cannot be used, ``NotFinite``, and ``Interrupted`` once the state is saved.
    """
    ranks = current()
    with StopSignals(insist=ranks.world == 1) as stop, ExitStack() as held:  # torchrun kills what does not stop

        def begin() -> tuple[Path, bool]:
            run_dir, lock = claim(experiment, record)
            held.callback(lock.release)
            if problem := misfit(run_dir):
                kept = set_aside(run_dir / RESULT)
                warnings.warn(f"{problem}; testing again, and keeping that file as {kept.name}", stacklevel=2)
            done = finished(run_dir)
            if not done:
                write_json(run_dir / CONFIG, vars(record))
                _take_over_training(experiment, record, run_dir)
            return run_dir, done

        bench = ranks.together(experiment.build)
        ranks.together(bench.require_room)
        record = replace(record, data=held_out.facts(bench.tasks))
        run_dir, done = ranks.on_first(begin)
        held.enter_context(in_folder(run_dir))
        if done:
            print(f"already done: {run_dir}")
            return run_dir
        several = f", {ranks.world} ranks" if ranks.world > 1 else ""
        print(f"run folder: {run_dir} ({bench.device.type}, {bench.engine.describe()}{several})", flush=True)
        if experiment.eval.every > 0 and not bench.tasks.has(Split.val):
            print("this split has no validation classes: no validation, and the last parameters are tested")
        stop.wait = True
        state = train(bench, run_dir, stop, record.training())
        stop.wait = False
        chosen = state.selection if experiment.eval.select is Select.best else None
        meta, step = (chosen.meta, chosen.step) if chosen else (tuned(bench, state.meta), state.step)
        validation = {"mean": chosen.value, "ci95": chosen.ci95} if chosen else None
        test(bench, record, meta, run_dir, run_dir, {"step": step, "validation": validation})
    return run_dir


def _take_over_training(experiment: Experiment, record: Record, run_dir: Path) -> None:
    """Two cells of a published table are often one meta-training tested twice: copy the parameters of a finished one.

    Only where nothing was selected on validation, which is part of how a cell is tested.
    """
    if experiment.recipe is None or experiment.eval.every > 0 or checkpoint.folder(run_dir).exists():
        return
    other = same_training(run_dir, record)
    if other is None:
        return
    last = checkpoint.folder(other) / checkpoint.LAST
    try:
        checkpoint.read(last)
    except (checkpoint.Damaged, UserError):
        return  # then this run trains by itself
    print(f"the same meta-training is done: testing the parameters of {other}")
    write_atomic(run_dir / log.NAME, read_file(other / log.NAME) or b"")
    checkpoint.folder(run_dir).mkdir()
    write_atomic(checkpoint.folder(run_dir) / checkpoint.LAST, last.read_bytes())


def test(bench: Bench, record: Record, meta: Params, train_dir: Path, out: Path, selected: dict[str, Any]) -> None:
    """Measure meta-parameters on the meta-test tasks; write result.json, report.md and plots into ``out``.

    ``selected`` says which parameters they are: {"step", "validation"}. All ranks measure, the first one writes.
    """
    x, ranks = bench.experiment, bench.ranks
    began = time.perf_counter()
    scores = evaluate(
        bench,
        meta,
        Split.test,
        x.eval.tasks,
        x.eval.norm,
        last_only=not x.eval.every_step,
        progress="meta-test" if ranks.first else "",
    )
    seconds = time.perf_counter() - began
    if not all(math.isfinite(score.final()[0]) for score in scores):
        trained, asked = x.algo.inner_steps, x.algo.eval_inner_steps
        warnings.warn(
            f"meta-test: tasks diverge within {asked} inner steps (training took {trained}); "
            "fewer (algo.eval_inner_steps) or a smaller algo.inner_lr may help",
            stacklevel=2,
        )
    ranks.on_first(lambda: _report(bench, record, meta, train_dir, out, selected, scores, seconds))


def _report(
    bench: Bench,
    record: Record,
    meta: Params,
    train_dir: Path,
    out: Path,
    selected: dict[str, Any],
    scores: list[Score],
    seconds: float,
) -> None:
    """Write what ``test`` measured in so many seconds."""
    x = bench.experiment
    lines = log.read(train_dir)
    training = [line["seconds"] for line in lines]
    rates = [line["tasks_per_s"] for line in lines if line["split"] == "train" and line.get("tasks_per_s")]
    rule = "best validation" if selected["validation"] else "last step"
    protocol = {**bench.protocol(), "selection": f"{rule}, meta-iteration {selected['step']} of {x.steps}"}
    for rate in step_sizes(meta).values():
        if rate.ndim == 0:
            protocol["step_size"] = f"{rate.item():g}"
    if x.recipe:
        changed = f", changed: {', '.join(record.changed)}" if record.changed else ""
        protocol = {"recipe": f"{x.recipe.name}, budget {x.recipe.budget:g}{changed}", **protocol}
    result = {
        "names": record.names,
        "recipe": x.recipe and {"name": x.recipe.name, "budget": x.recipe.budget, "changed": record.changed},
        "seed": x.seed,
        "metric": bench.objective.metric_name,
        "protocol": protocol,
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
        "ranks": bench.ranks.world,
        "train_seconds": training[-1] if training else 0.0,
        "test_seconds": round(seconds, 3),
        "tasks_per_s": sorted(rates)[len(rates) // 2] if rates else None,
    }
    norm = scores[0].norm
    episodes = bench.tasks.sample(Split.test, x.eval.seed, range(3), x.way, x.eval.shot, x.eval.query)
    if bench.objective.metric_name == "mse":  # a dense query set draws the whole curve; the support points stay
        episodes = bench.tasks.sample(Split.test, x.eval.seed, range(3), x.way, x.eval.shot, 300)
    outputs = predictions(bench, meta, episodes, norm)
    plots.draw_all(out, result, lines, episodes, outputs)
    if learned := {name: rate.cpu().numpy() for name, rate in step_sizes(meta).items() if rate.ndim > 0}:
        plots.save(plots.step_sizes(learned), out / "step_sizes.png")
    report.write(out, result)
    write_json(out / RESULT, report.sealed(result))  # last: a folder with a result is a finished run
    print(report.summary(result))
    print(f"report: {out / report.NAME}")


def _score_entry(bench: Bench, score: Score) -> dict[str, Any]:
    mean, half = score.final()
    norm = "none (no batch norm)" if bench.mixing is Mixing.none else score.norm.name
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
    ranks = current()
    with StopSignals():
        bench = ranks.together(experiment.build)
        content = ranks.on_first(lambda: _trained(run_dir, which, bench))
        _refuse_other_step_size(content["meta"], run_dir, record)
        _refuse_seen_classes(run_dir, record, bench, content)
        x = experiment
        name = f"{x.eval.norm.name}_{x.eval.tasks}tasks_{x.algo.eval_inner_steps}steps"
        out = ranks.on_first(lambda: fresh(run_dir / "eval" / name))
        meta = tree.combine(lambda p: p.to(bench.device), content["meta"])
        if "value" not in content:
            meta = tuned(bench, meta)
        validation = {"mean": content["value"], "ci95": content["ci95"]} if "value" in content else None
        test(bench, record, meta, run_dir, out, {"step": content["step"], "validation": validation})
    return out


def _trained(run_dir: Path, which: Select, bench: Bench) -> dict[str, Any]:
    """Meta-parameters of a run and what is known of them: {"meta", "step"}, "value" and "ci95" where selected.

    Raises ``UserError`` where they are not the run's, or not of the bench's network.
    """
    before = Record.read(run_dir)
    owner = Owner.of(bench, before.training() if before else None)
    names = [checkpoint.BEST, checkpoint.LAST] if which is Select.best else [checkpoint.LAST]
    paths = [checkpoint.folder(run_dir) / name for name in names]
    path = next((path for path in paths if read_file(path) is not None), None)
    if path is None:
        raise UserError(f"run={run_dir}: has no checkpoint")
    try:
        return checkpoint.read(path, owner)
    except checkpoint.Damaged as error:
        state = checkpoint.load(run_dir, lambda: owner)
        if state is None:
            raise UserError(f"{error}, and there is no other") from None
        warnings.warn(f"{error}; taking the parameters from the last good checkpoint", stacklevel=2)
        return vars(state.selection) if which is Select.best and state.selection else vars(state)


def _refuse_seen_classes(run_dir: Path, asked: Record, bench: Bench, content: dict[str, Any]) -> None:
    """Raise ``UserError`` where a test class was trained on, or was there to choose these parameters."""
    before, tested = Record.read(run_dir), held_out.facts(bench.tasks)
    assert before is not None, "evaluate_run is given a run folder"
    held_out.refuse_renamed_split(before.data, before.names, before.values, f"run={run_dir}")
    chosen = "value" in content or len(bench.experiment.algo.candidates(content["meta"])) > 1
    was, now = (record.values["dataset"] for record in (before, asked))
    held_out.refuse_trained(before.data, was, tested, now, chosen, f"run={run_dir}")
    if was == now and (said := held_out.differences(before.data, tested)):
        warnings.warn(f"run={run_dir}: tested on other data than it was trained on ({said})", stacklevel=2)


def _refuse_other_step_size(trained: Params, run_dir: Path, asked: Record) -> None:
    """Raise ``ConfigError`` for a step size that would change nothing, since the parameters hold those to be used."""
    before = Record.read(run_dir)
    was, now = (record and record.values["algo"].get("inner_lr") for record in (before, asked))
    if step_sizes(trained) and now != was:
        raise ConfigError("algo.inner_lr", now, f"as trained, {was}: this method found step sizes of its own")
