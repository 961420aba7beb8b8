"""Hydra's internals below ``hydra.main`` and ``hydra.compose``. Last seen in hydra-core 1.3.8; 1.4 has others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra.version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

__all__ = ["ConfigStore", "HydraConfig", "IntervalSweep", "Override", "get_args_parser"]

BASE = "1.3"  # the version whose defaults Hydra uses


@contextmanager
def reading(folder: Path, more: Path | None) -> Iterator[None]:
    """Let ``hydra.compose`` and the functions below read configurations.

    Args:
        folder: metarun's configuration.
        more: a folder with options of the user's, read after ``folder``.
    """
    search = create_config_search_path(str(folder))
    if more is not None:
        place = SearchPathQuery(provider="schema")  # Hydra needs the schemas last
        search.prepend("command-line", f"file://{more.absolute()}", anchor=place)
    hydra.version.setbase(BASE)
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="metarun", config_search_path=search)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def parse(argument: str) -> list[Override]:
    """Parse a word of the command line.

    Raises:
        hydra.errors.OverrideParseException: the word is no override.
    """
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides([argument])


def options(group: str) -> list[str]:
    """Return the options of a group."""
    return GlobalHydra.instance().config_loader().get_group_options(group)


def subgroups(group: str) -> list[str]:
    """Return the groups within a group."""
    return GlobalHydra.instance().config_loader().list_groups(group)


def jobs_of_sweep(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each job of a sweep: every combination of its values."""
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return jobs


class Clash(NamedTuple):
    """The option of a group sets a key that the selected option of another group does not have."""

    group: str
    option: str
    key: str
    other: str


def clash(text: str) -> Clash | None:
    """Find in the text of an error two options that do not go together; None: it says no such thing."""
    found = re.search(r"In '(\w+)/([\w/]+)': .*Key '\w+' not in .*full_key: ((\w+)\.\S+)", text)
    return Clash(*found.groups()) if found else None


class Lacking(NamedTuple):
    """A group of Hydra's own does not have this option; ``options`` are those that it has."""

    group: str
    option: str
    options: str


def lacking(text: str) -> Lacking | None:
    """Find in the text of an error a launcher or sweeper that is not installed; None: it says no such thing."""
    found = re.search(r"Could not find '(hydra/\w+)/(\S+)' Available options in \S+ (.*?) Config search", text)
    return Lacking(*found.groups()) if found else None


def runs_jobs_here(settings: Any) -> bool:
    """Return whether jobs run in this process, one after another; settings: the result of ``HydraConfig.get``."""
    return settings.launcher._target_.endswith("BasicLauncher")
