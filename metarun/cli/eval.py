"""``metarun eval``: test a run's checkpoint again."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError


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
    from metarun.config.earlier import opened
    from metarun.config.overrides import as_typed
    from metarun.files import user_path
    from metarun.runs.load import evaluate_run

    run_dir = user_path(given.run)
    experiment, record = opened(run_dir, given.checkpoint, as_typed(given.words))
    chosen = [f"checkpoint={given.checkpoint}"] if given.checkpoint else []
    record = replace(record, command=["eval", f"run={given.run}", *chosen, *given.words])
    evaluate_run(run_dir, experiment, record, experiment.eval.select, ranks)
    return 0
