"""One run: claim its folder, train or resume, test the selected parameters, write the results."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from metarun import files
from metarun.core.episode import TaskFigure
from metarun.datasets.base import Split
from metarun.engine.ranks import ALONE, Ranks
from metarun.errors import UserError, first_line, in_folder
from metarun.files import read_file, write_atomic
from metarun.results import page, report
from metarun.results.result import Result
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, extend, held_out, journal, meta_test, source
from metarun.runs.checkpoint import TrainState
from metarun.runs.experiment import Experiment, Select
from metarun.runs.folder import RESULT, claim, complete, finished, misfit, same_training, set_aside
from metarun.runs.follow import followed
from metarun.runs.meta_test import Tested
from metarun.runs.preflight import preflight
from metarun.runs.record import CONFIG, Record, refuse_seen
from metarun.runs.setup import Setup, build
from metarun.runs.signals import StopSignals
from metarun.runs.train import train, tuned


def run(experiment: Experiment, record: Record, ranks: Ranks = ALONE) -> Path:
    """Run one experiment: train or resume, test, write the report. Returns at once if it has all of these already.

    Args:
        experiment: the experiment.
        record: its configuration as plain data.
        ranks: the processes of the run.

    Returns:
        The run folder.

    Raises:
        UserError: invalid input.
        NotFinite: training diverged; it stops at once. Or the test has no finite result; all files are written before.
        Interrupted: a signal stopped the run after the state was saved.
    """
    for name, tracker in experiment.tracker.items():
        tracker.check(name)
    with StopSignals(insist=ranks.world == 1) as stop, ExitStack() as held:  # torchrun kills ranks that do not stop

        def begin(record: Record) -> tuple[Path, Record, Result | None]:
            if experiment.extend:
                record = extend.lengthened(record, setup)
            run_dir, lock = claim(experiment, record)
            held.callback(lock.release)
            if experiment.extend:
                extend.keep_shorter(run_dir, record)
            states = (checkpoint.LAST, checkpoint.BEST)
            written = (CONFIG, RESULT, journal.NAME, page.NAME, page.WEB, "*.png")
            files.remove_torn(run_dir / name for name in written)
            files.remove_torn(checkpoint.folder(run_dir) / name for name in states)
            if problem := misfit(run_dir):
                kept = set_aside(run_dir / RESULT)
                warnings.warn(f"{problem}; testing again, and keeping that file as {kept.name}", stacklevel=2)
            if not finished(run_dir):
                record.write(run_dir)
                _take_over_training(experiment, record, run_dir)
                return run_dir, record, None
            found = read_result(run_dir / RESULT)
            if not complete(run_dir) and not checkpoint.folder(run_dir).exists():
                page.write(run_dir, found, record.command, {})  # without checkpoints no figure can be drawn
            return run_dir, record, found

        held.enter_context(experiment.device.applied(ranks.local))
        init = experiment.init
        given = None if init is None else ranks.together(lambda: source.read(init))
        setup = ranks.together(lambda: build(experiment, ranks=ranks))
        record = replace(record, data=held_out.facts(setup.tasks))
        if given:
            setup, start = source.begin(setup, given)
            record = replace(record, start=start)
            refuse_seen(record, setup.tasks)
        ranks.together(setup.require_room)
        ranks.on_first(lambda: preflight(setup))
        typed = record
        run_dir, record, found = ranks.on_first(lambda: begin(typed))
        held.enter_context(in_folder(run_dir))
        done = found is not None and ranks.on_first(lambda: complete(run_dir))

        def show_in_trackers() -> None:
            if experiment.tracker and not done:
                _draw_examples(setup, run_dir)
            held.enter_context(followed(experiment.tracker, run_dir, going=not done))

        ranks.on_first(show_in_trackers)
        if found and done:
            print(f"already done: {run_dir}")
            meta_test.require_figures(found)
            return run_dir
        several = f", {ranks.world} ranks" if ranks.world > 1 else ""
        print(f"run folder: {run_dir} ({setup.device.type}, {setup.engine.describe()}{several})", flush=True)
        if record.start:
            print("\n".join(record.start.lines()), flush=True)
        if experiment.eval.every > 0 and not setup.tasks.has(Split.val):
            print("this split has no validation classes: no validation, and the last parameters are tested")
        stop.wait = True
        state = train(setup, run_dir, stop, record.training())
        stop.wait = False
        if state.step < experiment.steps:
            patience = f"eval.patience={experiment.eval.patience}"
            print(f"stopped early after meta-iteration {state.step} of {experiment.steps} ({patience})", flush=True)
        tested = _chosen(setup, state)
        found = found or meta_test.test(setup, record, tested, run_dir, run_dir)
        ranks.on_first(lambda: meta_test.illustrate(setup, found, tested.meta, run_dir, run_dir, record.command))
        meta_test.require_figures(found)
    return run_dir


def _chosen(setup: Setup, state: TrainState) -> Tested:
    """Choose the parameters of a finished training to test."""
    select, stopped_early = setup.experiment.eval.select, state.step < setup.experiment.steps
    if select is Select.best and (best := state.selection):
        return Tested.selected(best, state.step, stopped_early, setup.experiment.eval.ensemble)
    rule = "last step"
    if select is Select.best and setup.experiment.eval.every > 0 and setup.tasks.has(Split.val):
        rule = "last step (no validation has a figure)"
        warnings.warn(
            "tasks diverge in every validation: nothing is selected, the last parameters are tested", stacklevel=3
        )
    return Tested(tuned(setup, state.meta), state.step, rule, None, state.step, stopped_early)


def _draw_examples(setup: Setup, run_dir: Path) -> None:
    """Draw the images of the first meta-training tasks, where there are images and no such picture yet."""
    from metarun.results.axes import save  # late: they import matplotlib
    from metarun.results.examples import mosaic

    x, file = setup.experiment, run_dir / report.EXAMPLES
    if setup.tasks.figure is not TaskFigure.images or file.exists():
        return
    try:
        tasks = setup.tasks.sample(Split.train, x.seed, range(4), x.way, *x.training_shots())
        save(mosaic(setup.tasks.inputs(tasks).flatten(0, 1), x.dataset.ink), file)
    except Exception as error:  # of whatever kind: training is right without it
        warnings.warn(f"{file.name}: not drawn ({first_line(error)})", stacklevel=2)


def _take_over_training(experiment: Experiment, record: Record, run_dir: Path) -> None:
    """Copy the parameters of a finished run with the same meta-training, where there is one.

    Two cells of a published table are often two tests of one meta-training. It is not done where validation selects
    the parameters, because selection depends on how a cell is tested.
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
        return  # then this run trains
    print(f"the same meta-training is done: testing the parameters of {other}")
    write_atomic(run_dir / journal.NAME, read_file(other / journal.NAME) or b"")
    checkpoint.folder(run_dir).mkdir()
    write_atomic(checkpoint.folder(run_dir) / checkpoint.LAST, last.read_bytes())
