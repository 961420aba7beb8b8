"""The command line: choose the command, report its errors in one line, return its exit status.

Nothing that takes long is imported here.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks, joined
from metarun.errors import Interrupted, RankLost, UserError, did_you_mean, one_line
from metarun.out_of_memory import out_of_memory_in_one_line
from metarun.runs.signals import StopSignals

USAGE = """\
metarun: one bench for gradient-based meta-learning

  metarun train    meta-train, test and report; any key of the configuration can be set
                     metarun train algo=fomaml dataset=omniglot
                     metarun train -m algo=maml,reptile seed=0,1,2      (a sweep)
  metarun eval     test a run's checkpoint again, under another protocol
                     metarun eval run=outputs/RUN eval.norm=all eval.tasks=1000
  metarun adapt    adapt a run to a few pictures of your own classes, and keep the result in one file
                     metarun adapt run=outputs/RUN support=photos/known out=MODEL
  metarun predict  classify pictures with it: metarun predict model=MODEL images=photos/new
  metarun export   a network for use elsewhere: metarun export run=outputs/RUN support=DIR out=DIR format=onnx
  metarun report   one table (Markdown, CSV and a page to look at) of all runs in a folder: metarun report outputs/
  metarun track    send runs, or the rest of them, to Comet, TensorBoard, W&B or MLflow
                     metarun track outputs/RUN tracker=comet
  metarun data     data sets: list, get, check them, and look at them (show): metarun data show omniglot
  metarun check    are the meta-gradients right on this machine? A table, in minutes: metarun check algo=maml,fomaml
  metarun bench    tasks per second, memory and where the time goes, on generated data
                     metarun bench dataset=omniglot model=conv4_pool --compare reference
  metarun reproduce  published tables: run their recipes, and print ours beside theirs with a verdict for each
                     metarun reproduce sinusoid

metarun COMMAND --help says more. --debug (or HYDRA_FULL_ERROR=1) shows the traceback of an error.
Exit status: 0 done, 1 a file that cannot be written or read, a wrong meta-gradient or a rank that is gone, 2 input that
cannot be used or does not fit into memory, 3 numbers no longer finite, 130/143 stopped by a signal.
"""
# a file each
COMMANDS = ("train", "eval", "adapt", "predict", "export", "report", "track", "data", "check", "bench", "reproduce")
ON_RANKS = ("train", "eval")  # commands that torchrun may start


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words of the command line without the program's name; None: those of this process.

    Returns:
        The exit status.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with joined() as ranks:
            return _command(words, ranks)
    except RankLost as error:
        print(f"metarun: error: {error}", file=sys.stderr)
        return 1


def _command(words: list[str], ranks: Ranks) -> int:
    """Run one command on one rank and return its exit status. Errors are printed before other ranks notice its end."""

    def tell(message: object) -> None:
        if ranks.tells:
            print(f"metarun: {one_line(str(message))}", file=sys.stderr, flush=True)

    def warn(message: Warning | str, *_: object, **__: object) -> None:
        if ranks.first:
            print(f"metarun: warning: {one_line(str(message))}", file=sys.stderr)

    try:
        # signals between the jobs of a sweep, too
        with StopSignals(), out_of_memory_in_one_line(), _warnings_shown_by(warn):
            given = parsed(words)
            if given is None:
                return 0
            if ranks.world > 1 and given.command not in ON_RANKS:
                raise UserError(f"{given.command}: runs in one process; start it without torchrun")
            return importlib.import_module(f"metarun.cli.{given.command}").run(given, ranks)
    except Interrupted as stop:
        tell(stop)
        return stop.status
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    except (UserError, OSError) as error:
        if ranks.tells and ("--debug" in words or os.environ.get("HYDRA_FULL_ERROR") == "1"):
            traceback.print_exc()
        tell(f"error: {error}")
        return error.status if isinstance(error, UserError) else 1


def parsed(words: list[str]) -> argparse.Namespace | None:
    """Parse a command line.

    Args:
        words: the command line without the program's name.

    Returns:
        ``command``, its flags and settings, and in ``words`` the others; None if help or the version was printed.

    Raises:
        UserError: there is no such command or flag, or a setting has no value.
    """
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        raise UserError(f"{name}: no such command{did_you_mean(name, COMMANDS)}; commands: {', '.join(COMMANDS)}")
    whole = Parser(prog="metarun", add_help=False)
    whole.add_argument("-h", "--help", action="store_true")
    commands = whole.add_subparsers(dest="command", parser_class=Parser)
    for each in COMMANDS:
        importlib.import_module(f"metarun.cli.{each}").parser(commands.add_parser)
    asked = commands.choices[name] if name else whole
    try:
        given, left = whole.parse_known_args(asked.as_flags(words))
    except SystemExit:  # argparse has printed what was asked for
        return None
    asked.check(given, left)
    if name is None or given.help:
        print(USAGE, end="")
        return None
    given.words = left
    return given


@contextmanager
def _warnings_shown_by(show: Callable[..., None]) -> Iterator[None]:
    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
