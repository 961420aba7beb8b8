"""``metarun check``: are the meta-gradients right on this machine?"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "check",
        usage="metarun check [algo=NAME,NAME] [device=auto|cpu|cuda]",
        description="Compares the meta-gradient of every method (or of those named) with independent definitions in\n"
        "float64, on small networks with batch norm, on each way of computing it. Exit status 1 if one is wrong.",
        epilog="  metarun check algo=maml,fomaml device=cpu",
    )
    command.setting("algo", "NAME,NAME", "the methods (all)")
    command.setting("device", "auto|cpu|cuda", "where", default="auto")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Check the methods and print a table. Returns the exit status: 1 if a meta-gradient is wrong."""
    for word in given.words:
        if not word.startswith("device."):
            raise UserError(f"{word}: check takes algo=NAME,NAME, device=auto|cpu|cuda and device.threads")
    from metarun import config
    from metarun.progress import progress_bar
    from metarun.verify import check

    algorithms = {}
    for name in given.algo.split(",") if given.algo else config.choices("algo"):
        experiment, _ = config.compose([f"algo={name}", f"device={given.device}", *given.words])
        algorithms[name] = experiment.algo
    left_out = [f"{name}: not checked, {why}" for name, why in check.unchecked(algorithms).items()]
    if len(left_out) == len(algorithms):
        raise UserError("; ".join(left_out))
    with experiment.device.applied() as device:
        print(f"meta-gradients on {device.type}, float64, allowed relative error {check.LIMIT:g}")
        lines = list(progress_bar(check.rows(algorithms, device), desc="check", unit="row"))
    print("\n".join([check.table(lines), *left_out]))
    wrong = sum(not line.right for line in lines)
    print(f"{len(lines) - wrong} right, {wrong} wrong")
    return 1 if wrong else 0
