"""The parameters that a run ended with: found, checked to be its own, and measured again."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from metarun.core import tree
from metarun.core.meta import Meta
from metarun.engine.ranks import ALONE, Ranks
from metarun.errors import ConfigError, UserError
from metarun.files import read_file
from metarun.runs import checkpoint, held_out, meta_test
from metarun.runs.experiment import Bench, Experiment, Select
from metarun.runs.folder import Record, finished, fresh
from metarun.runs.meta_test import Tested
from metarun.runs.owner import Owner
from metarun.runs.preflight import preflight
from metarun.runs.signals import StopSignals
from metarun.runs.train import tuned


def evaluate_run(run_dir: Path, experiment: Experiment, record: Record, which: Select, ranks: Ranks = ALONE) -> Path:
    """Measure a run's checkpoint again under another protocol; writes a new folder in ``run_dir/eval``.

    Training files are only read. Raises ``UserError`` where there is no checkpoint to read, and ``NotFinite`` when all
    is written where a figure cannot be given.
    """
    with StopSignals(), experiment.device.applied(ranks.local):
        bench = ranks.together(lambda: experiment.build(testing=True, ranks=ranks))
        content = ranks.on_first(lambda: _trained(run_dir, which, bench))
        _refuse_other_step_size(content["meta"], run_dir, record)
        _refuse_seen_classes(run_dir, record, bench, content)
        ranks.on_first(lambda: preflight(bench, training=False))
        x = experiment
        name = f"{x.eval.norm.name}_{x.eval.tasks}tasks_{x.algo.eval_inner_steps}steps"
        out = ranks.on_first(lambda: fresh(run_dir / "eval" / name))
        meta = tree.combine(lambda p: p.to(bench.device), content["meta"])
        if "value" in content:
            tested = Tested.selected(meta, content, ranks.on_first(lambda: _trained_for(run_dir, bench, content)))
        else:
            tested = Tested(tuned(bench, meta), content["step"], "last step", None, content["step"])
        found = meta_test.test(bench, record, tested, run_dir, out)
        ranks.on_first(lambda: meta_test.illustrate(bench, found, tested.meta, run_dir, out))
        meta_test.require_figures(found)
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
        content = checkpoint.read(path, owner)
        chosen = content.get("selection") if which is Select.best else None  # in last.pt, where best.pt is lost
        content = chosen or content
        return {**content, "meta": Meta.from_flat(content["meta"])}
    except checkpoint.Damaged as error:
        state = checkpoint.load(run_dir, lambda: owner)
        if state is None:
            raise UserError(f"{error}, and there is no other") from None
        warnings.warn(f"{error}; taking the parameters from the last good checkpoint", stacklevel=2)
        return vars(state.selection) if which is Select.best and state.selection else vars(state)


def _trained_for(run_dir: Path, bench: Bench, chosen: dict[str, Any]) -> int:
    """Meta-iterations that the run of chosen parameters had made; its log would say, and has no checksum."""
    if finished(run_dir):
        return bench.experiment.steps
    before = Record.read(run_dir)
    try:
        state = checkpoint.load(run_dir, lambda: Owner.of(bench, before.training() if before else None))
    except UserError:
        state = None  # best.pt is all there is
    return max(chosen["step"], state.step if state else 0)


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


def _refuse_other_step_size(trained: Meta, run_dir: Path, asked: Record) -> None:
    """Raise ``ConfigError`` for a step size that would change nothing, since the parameters hold those to be used."""
    before = Record.read(run_dir)
    was, now = (record and record.values["algo"].get("inner_lr") for record in (before, asked))
    if trained.step_sizes and now != was:
        raise ConfigError("algo.inner_lr", now, f"as trained, {was}: this method found step sizes of its own")
