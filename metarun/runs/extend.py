"""More meta-iterations for a finished run (``extend=true``); the shorter run is kept as it was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from metarun.datasets.base import Split
from metarun.engine.meta_batch import TRIALS
from metarun.errors import UserError, require
from metarun.files import user_path, write_atomic
from metarun.results import page
from metarun.results.result_file import read as read_result
from metarun.runs.folder import LOCK, RESULT, finished
from metarun.runs.record import Record
from metarun.runs.setup import Setup
from metarun.runs.train import validator


def lengthened(record: Record, setup: Setup) -> Record:
    """Return the record of the run that goes on in ``run_dir``, with the lengths at which it had ended before.

    Args:
        record: the configuration as plain data, with the new number of meta-iterations.
        setup: its parts.

    Raises:
        UserError: the folder holds no finished run that is shorter.
    """
    x = setup.experiment
    run_dir = user_path(str(x.run_dir))
    before = Record.read(run_dir)
    if before is None:
        raise UserError(f"run_dir={run_dir}: holds no run (no config.json), and extend=true goes on with one")
    steps = before.values["steps"]
    if steps == x.steps and before.extended:
        return replace(record, extended=before.extended)  # the same command again
    require(x.steps > steps, "steps", x.steps, f"> {steps} with extend=true: the run in run_dir has so many already")
    done = kept(run_dir, steps) if finished(kept(run_dir, steps)) else run_dir
    if not finished(done):
        raise UserError(f"run_dir={run_dir}: is not finished; end it first, with steps={steps} and without extend")
    if read_result(done / RESULT).stopped_early:
        said = "stopped early (eval.patience), and would at once stop again"
        raise UserError(f"run_dir={run_dir}: {said}; a new run_dir with init={run_dir} begins with its parameters")
    return replace(record, extended={**before.extended, str(steps): differences(setup, steps)})


def kept(run_dir: Path, steps: int) -> Path:
    """Return the folder in which the run is kept as it was after ``steps`` meta-iterations, a run folder too."""
    return run_dir / f"{steps}_steps"


def keep_shorter(run_dir: Path, record: Record) -> None:
    """Copy the finished run into a folder of its own, take its result away, and write the new configuration.

    A process that is killed here does the rest when the same command is started again.
    """
    before = Record.read(run_dir)
    assert before is not None, "lengthened has read it"
    if before.extended == record.extended:
        return
    copy = kept(run_dir, before.values["steps"])
    if not finished(copy):
        half = copy.with_name(f".{copy.name}.tmp")
        shutil.rmtree(half, ignore_errors=True)
        others = [kept(run_dir, int(steps)).name for steps in before.extended]
        for path in run_dir.rglob("*"):
            name = path.relative_to(run_dir)
            if path.is_file() and name.parts[0] not in (*others, half.name, LOCK):
                (half / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(half / name, path.read_bytes())
        half.rename(copy)
    for path in (run_dir / RESULT, run_dir / page.NAME, run_dir / page.WEB, *run_dir.glob("*.png")):
        path.unlink(missing_ok=True)
    shutil.rmtree(run_dir / "eval", ignore_errors=True)
    record.write(run_dir)
    print(f"extending a run of {before.values['steps']} meta-iterations, which is kept as {copy}", flush=True)
    print(f"extended {stamp(record.extended, record.values['steps'])}", flush=True)


def differences(setup: Setup, steps: int) -> list[str]:
    """List what makes a run that ended after ``steps`` and was extended another one than a run of its whole length.

    Args:
        setup: the parts of the extended run.
        steps: meta-iterations that it had done.
    """
    x, said = setup.experiment, []
    if keys := x.algo.depends_on_length():
        jump = f"was at its end after {steps}, and went on as at {steps / x.steps:.0%} of {x.steps}"
        said.append(f"{', '.join(keys)} {jump}")
    validates = x.eval.every > 0 and setup.tasks.has(Split.val)
    if validates and steps % x.eval.every:
        said.append(f"it was also validated after {steps}")
    if _efforts(setup, steps, validates) != _efforts(setup, x.steps, validates):
        said.append("device.compile=auto: a longer run is traced or compiled, which may round otherwise")
    return said


def _efforts(setup: Setup, steps: int, validates: bool) -> list[int]:
    """List what the engine prepares for each function of a run of so many meta-iterations."""
    x = setup.experiment
    calls = [steps]
    if x.algo.outer_optimizer.asks:
        region, promp = x.algo.trust_region, x.algo.promp
        calls += [steps * times for times in (TRIALS, region.cg_steps, region.slopes, promp.steps - 1)]
    if validates:
        score = validator(setup, times=steps // x.eval.every)
        calls += [score.whole.calls, score.rest.calls]
    return [setup.engine.effort(many) for many in calls]


def stamp(extended: dict[str, list[str]], steps: int) -> str:
    """Describe an extended run for the protocol of its numbers.

    Args:
        extended: as in ``Record``.
        steps: meta-iterations of the whole run.
    """
    why = [reason for reasons in extended.values() for reason in reasons]
    same = f"not the run of {steps} at once: {'; '.join(why)}" if why else f"the same as a run of {steps} at once"
    return f"after {', '.join(extended)} meta-iterations; {same}"
