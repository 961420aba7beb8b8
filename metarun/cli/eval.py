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
        usage="metarun eval run=PATH|zoo:NAME [checkpoint=best|last] [KEY=VALUE ...]",
        description="Tests a run's checkpoint again, the one that the run was tested on unless another is named; the\n"
        "result goes to a new folder in PATH/eval (for zoo:NAME in outputs/zoo/NAME/eval), training files stay as\n"
        "they are. Keys: eval.tasks, eval.norm (transductive, support, support_plus_one, all), eval.shot, eval.query,\n"
        "eval.seed, eval.way, eval.ensemble, algo.eval_inner_steps, dataset=OTHER (with inputs of the same shape),\n"
        "data_root, device, and any other key that a test reads and that leaves the network as it was trained.",
        epilog="  metarun eval run=outputs/RUN eval.norm=all eval.tasks=1000\n"
        "  metarun eval run=zoo:sinusoid/maml_5s eval.tasks=1000",
    )
    command.setting("run", "PATH|zoo:NAME", "the run's folder, or an entry of the zoo")
    command.setting("checkpoint", "best|last", "which parameters to test (the run's own choice)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Test a checkpoint and write the result. Returns the exit status."""
    if given.run is None:
        raise UserError("run: has no value, and needs one: metarun eval run=outputs/RUN")
    from metarun.config.earlier import opened
    from metarun.config.overrides import as_typed
    from metarun.runs.load import evaluate_run
    from metarun.runs.zoo import run_folder

    run_dir = run_folder(given.run)
    experiment, record = opened(run_dir, given.checkpoint, as_typed(given.words))
    chosen = [f"checkpoint={given.checkpoint}"] if given.checkpoint else []
    record = replace(record, command=["eval", f"run={given.run}", *chosen, *given.words])
    evaluate_run(run_dir, experiment, record, experiment.eval.select, ranks)
    return 0
