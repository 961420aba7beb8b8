"""The command line: its errors, its exit status, and ``metarun train``. The only file that knows ``hydra.main``."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import hydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import metarun
from metarun import config
from metarun.cli import commands
from metarun.compat.hydra import HydraConfig, get_args_parser, runs_jobs_here
from metarun.config.overrides import GROUPS, as_typed
from metarun.engine.ranks import Ranks, current, joined
from metarun.errors import Interrupted, OutOfMemory, RankLost, UserError, did_you_mean, first_line, one_line
from metarun.files import user_path
from metarun.out_of_memory import out_of_memory_in_one_line
from metarun.results.result_file import read as read_result
from metarun.runs.folder import RESULT
from metarun.runs.run import run
from metarun.runs.signals import StopSignals

USAGE = """\
metarun: one bench for gradient-based meta-learning

  metarun train    meta-train, test and report; any key of the configuration can be set
                     metarun train algo=fomaml dataset=omniglot
                     metarun train -m algo=maml,reptile seed=0,1,2      (a sweep)
  metarun eval     measure a run's checkpoint again, under another protocol
                     metarun eval run=outputs/RUN eval.norm=all eval.tasks=1000
  metarun report   one table (Markdown and CSV) of any number of runs
                     metarun report outputs/
  metarun check    are the meta-gradients right on this machine? A table, in minutes
                     metarun check algo=maml,fomaml
  metarun bench    tasks per second, memory and where the time goes, on generated data
                     metarun bench dataset=omniglot model=conv4_pool --compare reference
  metarun reproduce  published tables: run their recipes, and print ours beside theirs with a verdict for each
                     metarun reproduce sinusoid

metarun COMMAND --help says more. --debug (or HYDRA_FULL_ERROR=1) shows the traceback of an error.
Exit status: 0 done, 1 a file that cannot be written, a wrong gradient or a rank that is gone, 2 input that cannot
be used or does not fit into memory, 3 numbers no longer finite, 130/143 stopped by a signal.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words or os.environ.get("HYDRA_FULL_ERROR") == "1"
    words = [word for word in words if word != "--debug"]
    try:
        with joined() as ranks:
            return _command(words, debug, ranks)
    except RankLost as error:
        print(f"metarun: error: {error}", file=sys.stderr)
        return 1


def _command(words: list[str], debug: bool, ranks: Ranks) -> int:
    """One command on one rank; its exit status. Tells of errors before the other ranks can notice that it is gone."""

    def tell(message: object) -> None:
        if ranks.tells:
            print(f"metarun: {one_line(str(message))}", file=sys.stderr, flush=True)

    def warn(message: Warning | str, *_: object, **__: object) -> None:
        if ranks.first:
            print(f"metarun: warning: {one_line(str(message))}", file=sys.stderr)

    warnings.showwarning = warn
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(USAGE, end="")
            return 0
        if words[0] == "--version":
            print(f"metarun {metarun.__version__}")
            return 0
        if words[0] not in COMMANDS:
            raise UserError(
                f"{words[0]}: no such command{did_you_mean(words[0], COMMANDS)}; commands: {', '.join(COMMANDS)}"
            )
        if ranks.world > 1 and words[0] in ("report", "check", "bench", "reproduce"):
            raise UserError(f"{words[0]}: runs in one process; start it without torchrun")
        with StopSignals(), out_of_memory_in_one_line():  # between the jobs of a sweep, too
            return COMMANDS[words[0]](words[1:])
    except Interrupted as stop:
        tell(stop)
        return stop.status
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    except (UserError, OSError) as error:
        if debug and ranks.tells:
            traceback.print_exc()
        tell(f"error: {error}")
        return error.status if isinstance(error, UserError) else 1


def train(words: list[str]) -> int:
    """``metarun train``: checks every job first, then lets Hydra run one or all of them."""
    if "-h" in words or "--help" in words:
        print(train_help(), end="")
        return 0
    flags = _flags(words)
    if current().world > 1 and any("hydra/launcher" in word for word in flags.overrides):
        raise UserError("hydra/launcher: under torchrun all ranks run a sweep's jobs together, one after another")
    config.check(flags.overrides, flags.multirun, flags.config_dir, current().world)
    words = _hydra_words(flags)
    if flags.multirun:  # Hydra first composes what is the same in all jobs, and recipes differ
        words = [f"{w.replace('=', '=choice(', 1)})" if w.startswith("recipe.") and "," not in w else w for w in words]
    ended.clear()
    with ExitStack() as until_done:
        if flags.multirun and not current().first:  # Hydra writes a sweep's configuration, once
            words.append(f"hydra.sweep.dir={until_done.enter_context(TemporaryDirectory())}")
        until_done.callback(setattr, sys, "argv", sys.argv)
        sys.argv = ["metarun train", *words]
        until_done.enter_context(_errors_as_they_are())
        try:
            hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="train")(_job)()
        except SystemExit as stop:  # Hydra has said in a line what it cannot show
            return 2 if flags.cfg and stop.code else int(stop.code or 0)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(first_line(error)) from error
    failed = [error for error in ended if error is not None]
    if failed and flags.multirun:
        whole = UserError(f"{len(failed)} of {len(ended)} jobs failed")
        whole.status = failed[-1].status if isinstance(failed[-1], UserError) else 1
        raise whole
    if failed:
        raise failed[-1]
    return 0


ended: list[UserError | OSError | None] = []  # how this process's jobs ended; one failed job does not end a sweep


@contextmanager
def _errors_as_they_are() -> Iterator[None]:
    """Within, Hydra lets errors pass, those of jobs in processes of their own too, and prints no traceback of them."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def _job(cfg: DictConfig) -> float | None:
    """One job of Hydra's; returns the figure on validation, by which a sweeper may choose what to try next."""
    settings = HydraConfig.get()
    if current().world > 1 and any(isinstance(error, OSError | OutOfMemory) for error in ended):
        return None  # an error of this rank's own, of which the others know nothing: it is out of step with them
    try:
        with out_of_memory_in_one_line():
            run_dir = run(*config.from_hydra(cfg, settings.runtime.choices), current())
        ended.append(None)
        return _figure(run_dir) if current().first else None  # the run folder may be on another machine
    except (UserError, OSError) as error:
        if not runs_jobs_here(settings):
            raise  # the job has a process of its own, and Hydra brings its error back
        ended.append(error)
        if settings.mode is RunMode.MULTIRUN and current().tells:  # at once: a sweep goes on for days
            words = [word for word in settings.overrides.task if word not in sys.argv]
            folder = getattr(error, "run_dir", cfg.run_dir)
            own = [word for word in words if not (folder and word.startswith("run_dir="))]
            where = " ".join([*own, *([f"run_dir={folder}"] if folder else [])])
            print(f"metarun: error: {where}: {one_line(str(error))}", file=sys.stderr, flush=True)
        return None


def _figure(run_dir: Path) -> float | None:
    """The validation figure of a finished run, where it has one."""
    validation = read_result(run_dir / RESULT).selected.validation
    return validation.mean if validation else None


def _flags(words: list[str]) -> argparse.Namespace:
    """Hydra's flags, wherever they stand among the overrides. Raises ``UserError`` for those that mean nothing here."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(words)
    flags.overrides = as_typed(flags.overrides, flags.multirun)
    if flags.config_dir == "":
        raise UserError("--config-dir: has no value (an unset variable of the shell?)")
    if flags.config_dir is not None:
        flags.config_dir = str(user_path(flags.config_dir))  # a shell leaves the ~ in --config-dir=~/mine alone
    for name, instead in REFUSED_FLAGS.items():
        if getattr(flags, name):
            raise UserError(f"--{name.replace('_', '-')}: {instead}")
    for name in ("resolve", "package"):
        if getattr(flags, name) and not flags.cfg:
            raise UserError(f"--{name}: goes with --cfg job")
    ways = [name for name in ("run", "multirun", "cfg", "info") if getattr(flags, name)]
    if len(ways) > 1:
        raise UserError(f"--{ways[0]}, --{ways[1]}: one at a time")
    flags.resolve = flags.cfg == "job"
    if flags.hydra_help:
        flags.overrides = []  # Hydra would look for them in its own configuration
    return flags


REFUSED_FLAGS = {
    "config_name": "metarun has one configuration; --config-dir DIR adds choices of your own to its groups",
    "config_path": "metarun has one configuration; --config-dir DIR adds choices of your own to its groups",
    "experimental_rerun": "the same command goes on with a run, and finds a finished one done",
    "shell_completion": "there is none; metarun train --help lists the choices and keys",
}


def _hydra_words(flags: argparse.Namespace) -> list[str]:
    """The command line for Hydra, which wants flags and overrides apart."""
    words = []
    for name, value in vars(flags).items():
        if name != "overrides" and value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return [*words, *flags.overrides]


def _refuse(message: str) -> NoReturn:
    hint = "; settings are written key=value, without dashes" if message.startswith("unrecognized") else ""
    raise UserError(message + hint)


def train_help() -> str:
    """Groups with their choices, then every key with its default and comment, from ``conf/``."""
    groups = "\n".join(f"  {group + '=':9}{' | '.join(config.choices(group))}" for group in GROUPS)
    text = (config.conf_dir() / "train.yaml").read_text()
    keys = text[text.index("\nway:") : text.index("\nhydra:")]
    return (
        "metarun train [KEY=VALUE ...] [-m] [--cfg job] [--debug]\n\n"
        f"Groups and their choices:\n{groups}\n\n"
        f"Keys, defaults and meaning:\n{textwrap.indent(keys.strip(), '  ')}\n\n"
        "Keys of a choice: metarun train algo=reptile --cfg job prints them all, resolved.\n"
        "Published protocols: metarun train recipe=omniglot/maml_5w1s (metarun reproduce --help says more);\n"
        "recipe.budget=0.1 shortens its training and marks the result.\n"
        "  -m        sweep: metarun train -m algo=maml,fomaml seed=0,1 runs every combination\n"
        "  --cfg job print the resolved configuration and stop\n"
        "  --config-dir DIR  more choices of your own: DIR/algo/mine.yaml\n"
        "  --hydra-help      Hydra's own options\n"
    )


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "eval": commands.evaluate,
    "report": commands.table,
    "check": commands.check,
    "bench": commands.bench,
    "reproduce": lambda words: commands.reproduce(words, train),
}
