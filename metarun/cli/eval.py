"""``metarun eval``: test a run's checkpoint again."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from metarun.runs.experiment import Experiment
    from metarun.runs.record import Record


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "eval",
        usage="metarun eval run=PATH [checkpoint=best|last] [KEY=VALUE ...]",
        description="Tests a run's checkpoint again, the one that the run was tested on unless another is named; the\n"
        "result goes to a new folder in PATH/eval, training files stay as they are. Keys: eval.tasks, eval.norm\n"
        "(transductive, support, support_plus_one, all), eval.shot, eval.query, eval.seed,\n"
        "eval.way, algo.eval_inner_steps, dataset=OTHER (with inputs of the same shape), data_root, device, and any\n"
        "other key that a test reads and that leaves the network as it was trained.",
        epilog="  metarun eval run=outputs/RUN eval.norm=all eval.tasks=1000",
    )
    command.setting("run", "PATH", "the run's folder")
    command.setting("checkpoint", "best|last", "which parameters to test (the run's own choice)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Test a checkpoint and write the result. Returns the exit status."""
    if given.run is None:
        raise UserError("run: has no value, and needs one: metarun eval run=outputs/RUN")
    from metarun.config.overrides import as_typed
    from metarun.files import user_path
    from metarun.runs import checkpoint
    from metarun.runs.experiment import Select
    from metarun.runs.load import evaluate_run
    from metarun.runs.record import Record

    which, known = given.checkpoint, Select.__members__
    if which and which not in known:
        raise UserError(f"checkpoint={which}: must be one of {', '.join(known)}{did_you_mean(which, known)}")
    overrides = as_typed(given.words)
    run_dir = user_path(given.run)
    record = Record.read(run_dir)
    if record is None:
        raise UserError(f"run={run_dir}: is no run folder (no config.json)")
    if which and checkpoint.selected(run_dir):  # else both are the last parameters, as the run has them
        record = record.tested_on(which)
    experiment, record = _reopened(run_dir, record, overrides)
    evaluate_run(run_dir, experiment, record, experiment.eval.select, ranks)
    return 0


def _reopened(run_dir: Path, record: Record, overrides: list[str]) -> tuple[Experiment, Record]:
    """Call ``config.reopen``; an error that the overrides do not cause names the file that it is in."""
    from metarun import config
    from metarun.runs.record import CONFIG

    try:
        return config.reopen(record, overrides)
    except UserError:
        try:
            config.reopen(record, [])
        except UserError as error:
            raise UserError(f"{run_dir / CONFIG}: {error}") from None
        raise
