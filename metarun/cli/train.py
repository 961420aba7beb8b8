"""``metarun train``: check every job, then let Hydra run it or, in a sweep, all of them."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from metarun.cli.parser import UNSET, Parser, Refused
from metarun.engine.ranks import ALONE, Ranks
from metarun.errors import OutOfMemory, UserError, first_line, one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

ONE = "metarun has one configuration; --config-dir DIR adds choices of your own to its groups"
REFUSED = {  # Hydra's flags -> what to do instead
    ("--config-name", "-cn"): ONE,
    ("--config-path", "-cp"): ONE,
    ("--experimental-rerun",): "the same command resumes an unfinished run, and does nothing for a finished one",
    ("--shell-completion", "-sc"): "there is none; metarun train --help lists the choices and keys",
}
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers. Its flags are those of Hydra."""
    command = add(
        "train",
        usage="metarun train [KEY=VALUE ...] [-m] [--cfg job] [--debug]",
        description="Meta-trains, tests and reports; every key of the configuration can be set.",
        more=_groups_and_keys,
    )
    sweep = "sweep: metarun train -m algo=maml,fomaml seed=0,1 runs every combination"
    command.add_argument("-m", "--multirun", action="store_true", help=sweep)
    command.add_argument("-r", "--run", action="store_true", help="one run, the default")
    shown = "print the resolved configuration, or Hydra's, and stop"
    command.add_argument("-c", "--cfg", choices=("job", "hydra", "all"), metavar="job|hydra|all", help=shown)
    command.add_argument("-p", "--package", metavar="GROUP", help="with --cfg: this part alone")
    command.add_argument("--resolve", action="store_true", help="with --cfg job, which resolves in any case")
    more = "more choices of your own: DIR/algo/mine.yaml"
    command.add_argument("-cd", "--config-dir", metavar="DIR", help=more)
    command.add_argument("--hydra-help", action="store_true", help="Hydra's own options")
    found = f"what Hydra has found: {', '.join(INFO)}"
    command.add_argument("-i", "--info", nargs="?", const="all", choices=INFO, metavar="PART", help=found)
    for flags, instead in REFUSED.items():
        command.add_argument(*flags, action=Refused, instead=instead)


def _groups_and_keys() -> str:
    """List the groups with their options, then every key with its default and comment, from ``conf/``."""
    from metarun.config.registry import GROUPS, choices, conf_dir

    groups = "\n".join(f"  {group + '=':9}{' | '.join(choices(group))}" for group in (*GROUPS, "tracker"))
    text = (conf_dir() / "train.yaml").read_text()
    keys = text[text.index("\nway:") : text.index("\nhydra:")]
    return (
        f"\nGroups and their choices:\n{groups}\n\n"
        f"Keys, defaults and meaning:\n{textwrap.indent(keys.strip(), '  ')}\n\n"
        "Keys of a choice: metarun train algo=reptile --cfg job prints them all, resolved.\n"
        "Published protocols: metarun train recipe=omniglot/maml_5w1s (metarun reproduce --help says more);\n"
        "recipe.budget=0.1 shortens its training and marks the result.\n"
    )


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Run the jobs, or print what a flag asks for. Returns the exit status."""
    for name in ("resolve", "package"):
        if getattr(given, name) and not given.cfg:
            raise UserError(f"--{name}: needs --cfg job")
    ways = [name for name in ("run", "multirun", "cfg", "info") if getattr(given, name)]
    if len(ways) > 1:
        raise UserError(f"--{ways[0]}, --{ways[1]}: one at a time")
    if given.config_dir == "":
        raise UserError(f"--config-dir: {UNSET}")
    if given.config_dir is not None:
        from metarun.files import user_path

        given.config_dir = str(user_path(given.config_dir))  # a shell leaves the ~ in --config-dir=~/mine alone
    words = [] if given.hydra_help else given.words  # Hydra would look for them in its own configuration
    for_hydra = ("run", "multirun", "cfg", "package", "config_dir", "hydra_help", "info")
    return start(words, ranks=ranks, resolve=given.cfg == "job", **{name: getattr(given, name) for name in for_hydra})


def start(
    words: list[str], *, multirun: bool = False, config_dir: str | None = None, ranks: Ranks = ALONE, **shows: object
) -> int:
    """Check the jobs that overrides describe, and let Hydra run them.

    Args:
        words: the overrides, as typed.
        multirun: whether they are a sweep.
        config_dir: a folder with the user's own options; None: there is none.
        ranks: the processes of each run.
        shows: Hydra's flags with which it prints something instead of running jobs.

    Returns:
        The exit status.

    Raises:
        UserError: a job is not possible, and none has run; or the job failed, or some jobs of a sweep, after all ran.
        OSError: the job failed because a file cannot be read or written.
    """
    from metarun.config import names

    if ranks.world > 1 and any("hydra/launcher" in word for word in words):
        raise UserError("hydra/launcher: under torchrun all ranks run a sweep's jobs together, one after another")
    names.check(words, multirun, config_dir)
    from metarun import config
    from metarun.config.overrides import as_typed

    overrides = as_typed(words, multirun)
    config.check(overrides, multirun, config_dir, ranks.world)
    jobs = Jobs(overrides, ranks, [] if config_dir is None else ["--config-dir", config_dir])
    status = _by_hydra(jobs, {"multirun": multirun, "config_dir": config_dir, **shows})
    failed = [error for error in jobs.ended if error is not None]
    if failed and multirun:
        whole = UserError(f"{len(failed)} of {len(jobs.ended)} jobs failed")
        whole.status = failed[-1].status if isinstance(failed[-1], UserError) else 1
        raise whole
    if failed:
        raise failed[-1]
    return status


def _by_hydra(jobs: Jobs, flags: dict[str, object]) -> int:
    """Do what ``hydra.main`` does with a command line, and return the exit status."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from metarun.compat import hydra
    from metarun.config import composition, conf_dir

    overrides, config_dir = list(jobs.typed), flags["config_dir"]
    with ExitStack() as until_done:
        if flags["multirun"]:
            overrides = [_in_each_job(word) for word in overrides]
            if not jobs.ranks.first:  # Hydra writes a sweep's configuration, once
                overrides.append(f"hydra.sweep.dir={until_done.enter_context(TemporaryDirectory())}")
        until_done.enter_context(_errors_as_they_are())
        until_done.enter_context(hydra.knowing(composition.types(str(config_dir) if config_dir else None)))
        try:
            hydra.run(jobs.run, conf_dir(), "train", overrides, flags)
        except SystemExit as stop:  # Hydra has said in a line what it cannot show
            return 2 if flags.get("cfg") and stop.code else int(stop.code or 0)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(first_line(error)) from error
    return 0


def _in_each_job(word: str) -> str:
    """Make a sweep of a recipe's key: Hydra first composes what all jobs share, and that contains no recipe."""
    return f"{word.replace('=', '=choice(', 1)})" if word.startswith("recipe.") and "," not in word else word


@contextmanager
def _errors_as_they_are() -> Iterator[None]:
    """Let errors pass through Hydra within the context, also from jobs in other processes, without any traceback."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@dataclass
class Jobs:
    """The jobs of one command, and how they ended in this process. One failed job does not end a sweep.

    Attributes:
        typed: the overrides of the command.
        ranks: the processes of each run.
        flags: of the command, that each job needs too.
        ended: the error of each job that has ended; None for one that succeeded.
    """

    typed: list[str]
    ranks: Ranks
    flags: list[str] = field(default_factory=list)
    ended: list[UserError | OSError | None] = field(default_factory=list)

    def run(self, cfg: DictConfig) -> float | None:
        """Run one of Hydra's jobs.

        Args:
            cfg: the configuration that Hydra composed for it.

        Returns:
            The mean of the validation metric, by which a sweeper may choose the next jobs; None if there is none.

        Raises:
            UserError: the job failed, in a process of its own; in this process the error is kept in ``ended``.
            OSError: the same.
        """
        from hydra.types import RunMode

        from metarun import config
        from metarun.compat.hydra import HydraConfig, runs_jobs_here
        from metarun.config.overrides import as_command
        from metarun.out_of_memory import out_of_memory_in_one_line
        from metarun.runs.run import run

        settings = HydraConfig.get()
        if self.ranks.world > 1 and any(isinstance(error, OSError | OutOfMemory) for error in self.ended):
            return None  # the other ranks do not know of that error, so this one is out of step with them
        try:
            with out_of_memory_in_one_line():
                experiment, record = config.from_hydra(cfg, settings.runtime.choices)
                words = ["train", *self.flags, *as_command(settings.overrides.task)]
                if settings.mode is RunMode.MULTIRUN:
                    experiment.grouped(Path(settings.sweep.dir).name)
                run_dir = run(experiment, replace(record, command=words), self.ranks)
            self.ended.append(None)
            return figure(run_dir) if self.ranks.first else None  # the run folder may be on another machine
        except (UserError, OSError) as error:
            if not runs_jobs_here(settings):
                raise  # Hydra passes the error on to the first process
            self.ended.append(error)
            if settings.mode is RunMode.MULTIRUN and self.ranks.tells:  # at once: a sweep goes on for days
                words = [word for word in settings.overrides.task if word not in self.typed]
                folder = getattr(error, "run_dir", cfg.run_dir)
                own = [word for word in words if not (folder and word.startswith("run_dir="))]
                where = " ".join([*own, *([f"run_dir={folder}"] if folder else [])])
                print(f"metarun: error: {where}: {one_line(str(error))}", file=sys.stderr, flush=True)
            return None


def figure(run_dir: Path) -> float | None:
    """Return the mean of a finished run's metric on validation; None if parameters were not selected there."""
    from metarun.results.result_file import read
    from metarun.runs.folder import RESULT

    validation = read(run_dir / RESULT).selected.validation
    return validation.mean if validation else None
