"""Hydra's internals below ``hydra.main`` and ``hydra.compose``. Last seen in hydra-core 1.3.8; 1.4 has others."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import hydra.version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

__all__ = ["HydraConfig", "IntervalSweep", "Override"]

Types = Mapping[str, Any]  # the name below /schema -> a dataclass, or {} for keys of any type

BASE = "1.3"  # the version whose defaults Hydra uses


@contextmanager
def knowing(types: Types) -> Iterator[None]:
    """Let Hydra know these types, with no configuration open yet.

    Afterwards its singletons are as they were, and so is the root logger, to which its own pages add a handler.
    """
    known = ConfigStore.instance().repo
    ours = known.pop("schema", None)  # the rest of it is Hydra's, and of plugins when they are first found
    opened, job, base = GlobalHydra.instance(), HydraConfig.instance(), VersionBase.instance()
    before = opened.hydra, job.cfg, base.version_base
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        known["schema"] = _schemas(types)
        hydra.version.setbase(BASE)
        opened.clear()
        yield
    finally:
        known.pop("schema", None)
        if ours is not None:
            known["schema"] = ours
        opened.hydra, job.cfg, base.version_base = before
        root.handlers[:] = handlers
        root.setLevel(level)


def _schemas(types: Types) -> dict[str, Any]:
    """Return the types as ``ConfigStore.store`` keeps them, in a tenth of its time: it reads every class each time."""
    schemas: dict[str, Any] = {}
    for path, of in types.items():
        group, _, name = path.rpartition("/")
        node = cast(DictConfig, _structured(of) if isinstance(of, type) else OmegaConf.create(of))
        stored = ConfigNode(f"{name}.yaml", node, "/".join(filter(None, ("schema", group))), None, None)
        (schemas.setdefault(group, {}) if group else schemas)[stored.name] = stored
    return schemas


_structured = functools.cache(OmegaConf.structured)  # nobody changes the nodes: ``ConfigStore.load`` returns copies


@contextmanager
def reading(folder: Path, more: Path | None, types: Types) -> Iterator[None]:
    """Let ``hydra.compose`` and the functions below read configurations.

    Args:
        folder: metarun's configuration.
        more: a folder with options of the user's, read after ``folder``.
        types: the types that ``knowing`` makes known.
    """
    search = create_config_search_path(str(folder))
    if more is not None:
        place = SearchPathQuery(provider="schema")  # Hydra needs the schemas last
        search.prepend("command-line", f"file://{more.absolute()}", anchor=place)
    with knowing(types):
        Hydra.create_main_hydra2(task_name="metarun", config_search_path=search)
        yield


def run(task: Callable[[Any], Any], folder: Path, name: str, overrides: list[str], flags: dict[str, Any]) -> None:
    """Do what ``hydra.main`` does with a command line; for use within ``knowing``.

    Args:
        task: the function that runs a job.
        folder: metarun's configuration.
        name: its root file.
        overrides: the words of the command line without flags.
        flags: Hydra's flags that are set, by the names that its parser gives them.
    """
    parser = get_args_parser()
    given = parser.parse_args([])
    vars(given).update(flags, overrides=overrides)
    _run_hydra(given, parser, task, str(folder), name)


def parse(argument: str) -> list[Override]:
    """Parse a word of the command line.

    Raises:
        hydra.errors.OverrideParseException: the word is no override.
    """
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides([argument])


def options(group: str) -> list[str]:
    """Return the options of a group."""
    return _repository().get_group_options(group)


def subgroups(group: str) -> list[str]:
    """Return the groups within a group."""
    return _repository().get_group_options(group, ObjectType.GROUP)


def _repository() -> ConfigRepository:
    """Return what the open configuration reads from; its loader copies it, and reads the root file, for every list."""
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    return loader.repository


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
