"""``metarun eval``: load a run's trained parameters, check that they belong to it, and test them again."""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

from metarun.core import tree
from metarun.core.meta import Meta
from metarun.engine.ranks import ALONE, Ranks
from metarun.errors import ConfigError, UserError, require
from metarun.files import read_file
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, held_out, meta_test, zoo
from metarun.runs.checkpoint import Selection
from metarun.runs.experiment import Experiment, Select
from metarun.runs.folder import RESULT, finished, fresh
from metarun.runs.held_out import Trained
from metarun.runs.meta_test import Tested
from metarun.runs.owner import Owner
from metarun.runs.preflight import preflight
from metarun.runs.record import Record, refuse_seen
from metarun.runs.setup import Setup, build
from metarun.runs.signals import StopSignals
from metarun.runs.train import tuned


def evaluate_run(run_dir: Path, experiment: Experiment, record: Record, which: Select, ranks: Ranks = ALONE) -> Path:
    """Test a run's checkpoint again, with other evaluation settings. Training files are read and never changed.

    Args:
        run_dir: the run folder.
        experiment: the experiment with the settings of this test.
        record: the same settings as plain data.
        which: the checkpoint to test.
        ranks: the processes of this test.

    Returns:
        The new folder with the results: in ``run_dir/eval``, or for an entry of the zoo in ``outputs/zoo``.

    Raises:
        UserError: there is no checkpoint, it does not fit, or a test class was used in training.
        NotFinite: all tasks diverged, or an error is infinite. The results are written before.
    """
    with StopSignals(), experiment.device.applied(ranks.local):
        before = Record.read(run_dir)
        kept = (before and before.values["eval"].get("ensemble")) or 1
        said = f"<= {kept}, as it was trained" if kept > 1 else "null, as it was trained; it kept one set of parameters"
        require((experiment.eval.ensemble or 1) <= kept, "eval.ensemble", experiment.eval.ensemble, said)
        learned = before.data.get("learned") if before and before.data else None
        setup = ranks.together(lambda: build(experiment, testing=True, ranks=ranks, learned=learned))
        content = ranks.on_first(lambda: trained(run_dir, which, setup))
        _refuse_other_step_size(content["meta"], run_dir, record)
        _refuse_seen_classes(run_dir, record, setup, content)
        ranks.on_first(lambda: preflight(setup, training=False))
        x = experiment
        name = f"{x.eval.norm.name}_{x.eval.tasks}tasks_{x.algo.eval_inner_steps}steps"
        name = f"{record.names['dataset']}_{name}" if record.trained_on else name
        name += f"_{x.eval_way}way" if x.eval_way != x.way else ""
        out = ranks.on_first(lambda: fresh(zoo.evaluations(run_dir) / name))
        done, stopped_early = ranks.on_first(lambda: _trained_for(run_dir, setup, content))
        if "value" in content:
            known = {of.name for of in fields(Selection)}
            chosen = Selection(**{key: value for key, value in content.items() if key in known}).moved(setup.device)
            tested = Tested.selected(chosen, done, stopped_early, x.eval.ensemble)
        else:
            step, meta = content["step"], tree.combine(lambda p: p.to(setup.device), content["meta"])
            tested = Tested(tuned(setup, meta), step, "last step", None, step, stopped_early and step == done)
        found = meta_test.test(setup, record, tested, run_dir, out)
        ranks.on_first(lambda: meta_test.illustrate(setup, found, tested.meta, run_dir, out, record.command))
        meta_test.require_figures(found)
    return out


def trained(run_dir: Path, which: Select, setup: Setup) -> dict[str, Any]:
    """Load a run's meta-parameters.

    Args:
        run_dir: the run folder.
        which: the parameters selected on validation, or the last ones.
        setup: the experiment's parts, to which the parameters must belong.

    Returns:
        {"meta", "step"}, and where validation selected them the other attributes of their ``Selection``; tensors are
        on the CPU.

    Raises:
        UserError: there is no checkpoint, or it belongs to another run or another network.
    """
    before = Record.read(run_dir)
    owner = Owner.of(setup, before.training() if before else None)
    names = [checkpoint.TESTED, *([checkpoint.BEST] if which is Select.best else []), checkpoint.LAST]
    paths = [checkpoint.folder(run_dir) / name for name in names]
    path = next((path for path in paths if read_file(path) is not None), None)
    if path is None:
        raise UserError(f"run={run_dir}: has no checkpoint")
    try:
        content = checkpoint.read(path, owner)
        chosen = content.get("selection") if which is Select.best else None  # from last.pt, where best.pt is lost
        content = chosen or content
        others = [Selection.of(of) for of in content.get("others", [])]
        return {**content, "meta": Meta.from_flat(content["meta"]), "others": others}
    except checkpoint.Damaged as error:
        state = checkpoint.load(run_dir, lambda: owner)
        if state is None:
            raise UserError(f"{error}, and there is no other") from None
        warnings.warn(f"{error}; taking the parameters from the last good checkpoint", stacklevel=2)
        return vars(state.selection) if which is Select.best and state.selection else vars(state)


def _trained_for(run_dir: Path, setup: Setup, chosen: dict[str, Any]) -> tuple[int, bool]:
    """Find the meta-iterations that a run had done, and whether it stopped early there.

    The journal is not used because it has no checksum.
    """
    if finished(run_dir):
        result = read_result(run_dir / RESULT)
        return result.trained, result.stopped_early
    before = Record.read(run_dir)
    try:
        state = checkpoint.load(run_dir, lambda: Owner.of(setup, before.training() if before else None))
    except UserError:
        state = None  # only best.pt is left
    return max(chosen["step"], state.step if state else 0), False


def _refuse_seen_classes(run_dir: Path, asked: Record, setup: Setup, content: dict[str, Any]) -> None:
    """Raise ``UserError`` where a test class was used in training, or to select these parameters."""
    before, tested = Record.read(run_dir), held_out.facts(setup.tasks)
    assert before is not None, "evaluate_run is given a run folder"
    held_out.refuse_renamed_split(before.data, before.names, before.values, f"run={run_dir}")
    chosen = "value" in content or len(setup.experiment.algo.candidates(content["meta"])) > 1
    chosen = chosen or setup.experiment.eval.patience is not None  # then validation chose when to stop
    was, now = (record.values["dataset"] for record in (before, asked))
    kind, other = (record.kinds["dataset"] for record in (before, asked))
    trained = Trained(what=before.names["dataset"], kind=kind, settings=was, data=before.data, selected=chosen)
    held_out.refuse_seen(trained, tested, other, now, f"run={run_dir}")
    refuse_seen(asked, setup.tasks)
    if was == now and (said := held_out.differences(before.data, tested)):
        warnings.warn(f"run={run_dir}: tested on other data than it was trained on ({said})", stacklevel=2)


def _refuse_other_step_size(trained: Meta, run_dir: Path, asked: Record) -> None:
    """Raise ``ConfigError`` for another ``algo.inner_lr`` where step sizes are learned: it would have no effect."""
    before = Record.read(run_dir)
    was, now = (record and record.values["algo"].get("inner_lr") for record in (before, asked))
    if trained.step_sizes and now != was:
        raise ConfigError("algo.inner_lr", now, f"as trained, {was}: this method learned step sizes of its own")
