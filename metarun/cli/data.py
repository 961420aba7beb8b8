"""``metarun data``: which data sets there are, get them, check them, look at them."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.cli.parser import Parser, require_folder
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, did_you_mean, one_line

if TYPE_CHECKING:
    from metarun.datasets.presence import Kind
    from metarun.runs.experiment import Experiment

ACTIONS = ("list", "get", "check", "show")
KEYS = ("data_root", "way", "shot", "query", "seed", "eval.seed")  # keys that are no keys of the data set


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "data",
        usage="metarun data list | get NAME | check NAME | show NAME [out=DIR] [classes=N]  [KEY=VALUE ...]",
        description="list says which data sets there are, how large, under which licence, and which of them are here.\n"
        "get downloads one, or says what to fetch and where to put it.\n"
        "check reads one from its files, not from the cache: checksums, missing, extra and unreadable files, the size\n"
        "of each class, and whether tasks can be drawn. One line each problem; the exit status is 1 if there is one.\n"
        "show draws classes of each split and some tasks, as PNG files and as one page to look at (index.html).\n"
        f"Keys: dataset.*, {', '.join(KEYS)}.",
        epilog="  metarun data check image_folder dataset.path=photos\n"
        "  metarun data show omniglot dataset.split=lake way=20 out=omniglot_lake",
    )
    command.setting("out", "DIR", "with show: the folder to write to (outputs/data/NAME)")
    command.setting("classes", "N", "with show: classes of each split on the page", default="12")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Do what the first word says. Returns the exit status, 1 if a check found a problem."""
    action, *rest = given.words or [""]
    if action not in ACTIONS:
        raise UserError(f"data {action}: must be one of {', '.join(ACTIONS)}{did_you_mean(action, ACTIONS)}")
    if action != "show" and (given.out is not None or given.classes != "12"):
        raise UserError(f"data {action}: takes neither out nor classes; data show does")
    named = [word for word in rest if "=" not in word]
    words = [word for word in rest if "=" in word]
    for word in words:
        if not word.startswith("dataset.") and word.partition("=")[0] not in KEYS:
            raise UserError(f"{word}: data takes dataset.*, {', '.join(KEYS)}")
    if action == "list":
        return _list(named, words)
    from metarun import config
    from metarun.config import names

    choices = config.choices("dataset")
    if len(named) != 1 or named[0] not in choices:
        said = ", ".join(choices) + (did_you_mean(named[0], choices) if len(named) == 1 else "")
        raise UserError(f"data {action} {' '.join(named)}: needs the name of a data set: {said}".replace("  ", " "))
    settings = [f"dataset={named[0]}", "device=cpu", "device.compile=false", *words]
    names.check(settings)
    experiment, _ = config.compose(settings)
    return {"get": _get, "check": _check, "show": _show}[action](named[0], experiment, given)


def _kinds() -> dict[str, Kind]:
    """The options of ``dataset``, with their classes."""
    from metarun.config import registry
    from metarun.datasets.presence import Kind

    classes = registry.part_classes("dataset")
    return {name: Kind(classes[of.module], of.words) for name, of in registry.described("dataset").items()}


def _list(named: list[str], words: list[str]) -> int:
    from metarun.datasets import presence
    from metarun.files import default_data_root, user_path

    if named or any(not word.startswith("data_root=") for word in words):
        raise UserError(f"data list {' '.join([*named, *words])}: takes data_root=DIR and nothing else")
    root = user_path(words[-1].partition("=")[2]) if words else default_data_root()
    print(presence.table(_kinds(), root, shutil.get_terminal_size().columns))
    return 0


def _get(name: str, experiment: Experiment, given: argparse.Namespace) -> int:
    from metarun.datasets import presence

    print(one_line(presence.get(name, _kinds()[name], experiment.dataset, experiment.data_folder)))
    return 0


def _check(name: str, experiment: Experiment, given: argparse.Namespace) -> int:
    from metarun.datasets.inspection import inspect

    x = experiment
    found = inspect(name, x.dataset, x.data_folder, x.way, x.shot, x.query)
    print(one_line(found.summary))
    for line in found.problems:
        print(f"  {one_line(line)}")
    width = shutil.get_terminal_size().columns
    for line in found.counts:
        print("\n".join(textwrap.wrap(one_line(line), width, subsequent_indent="  ", break_on_hyphens=False)))
    return 1 if found.problems else 0


def _show(name: str, experiment: Experiment, given: argparse.Namespace) -> int:
    from metarun.files import user_path
    from metarun.runs import data_sheet

    classes = int(given.classes) if given.classes.isdecimal() else 0
    if not 1 <= classes <= 200:
        raise UserError(f"classes={given.classes}: must be a whole number 1..200")
    out = user_path(given.out) if given.out else Path("outputs/data") / name
    require_folder(out)
    print(f"written: {', '.join(map(str, data_sheet.write(name, experiment, out, classes)))}")
    return 0
