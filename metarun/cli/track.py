"""``metarun track``: send runs, or the rest of them, to trackers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "track",
        usage="metarun track PATH [PATH ...] tracker=NAME|[NAME,NAME] [tracker.NAME.KEY=VALUE ...]",
        description="Sends every run under the paths, finished or not, to trackers: what they have not been sent\n"
        "before, as metarun train tracker=NAME does while it trains. A run that a process works on is left out.",
        epilog="  metarun track outputs/RUN tracker=comet\n  metarun track outputs/ tracker=[tensorboard,mlflow]",
    )
    command.add_argument("-cd", "--config-dir", metavar="DIR", help="trackers of your own: DIR/tracker/mine.yaml")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Send the runs. Returns the exit status."""
    words = [word for word in given.words if "=" in word]
    paths = [word for word in given.words if "=" not in word]
    if not all(path.strip() for path in paths):
        raise UserError("track: a path is empty (an unset variable of the shell?)")
    for word in words:
        if not word.startswith(("tracker=", "tracker.")):
            raise UserError(f"{word}: track reads only tracker=... and its keys")
    if not paths or not any(word.startswith("tracker=") for word in words):
        raise UserError("track needs a path and a tracker: metarun track outputs/RUN tracker=comet")
    from metarun import config
    from metarun.files import user_path
    from metarun.runs.record import CONFIG

    config_dir = None if given.config_dir is None else str(user_path(given.config_dir))
    trackers = config.compose(words, config_dir)[0].tracker
    for name, tracker in trackers.items():
        tracker.check(name)
    found: list[Path] = []
    for path in map(user_path, paths):
        runs = sorted(file.parent for file in path.rglob(CONFIG))
        if not runs:
            raise UserError(f"{path}: holds no run (no {CONFIG})")
        found += runs
    from metarun.runs.follow import send

    failed = [problem for run_dir in found for problem in send(trackers, run_dir)]
    if failed:
        raise UserError(f"{failed[0]}" + (f" (and {len(failed) - 1} more)" if failed[1:] else ""))
    return 0
