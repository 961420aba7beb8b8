"""The parts that a configuration chooses from: one concrete class in each file of three packages, found by search."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import metarun
from metarun.errors import UserError, first_line

PARTS = {"dataset": "datasets", "model": "models", "algo": "algorithms"}  # configuration group -> package
GROUPS = (*PARTS, "device")
OPTIONAL = ("recipe", "tracker")  # groups of which nothing need be chosen; of trackers there may be several
PACKAGES = {**PARTS, "tracker": "trackers"}  # trackers are no parts: a run is the same with others
# the base class, in the package's base.py
BASES = {"dataset": "Dataset", "model": "Model", "algo": "Algorithm", "tracker": "Tracker"}
SHARED = (  # files that hold no part
    *("base", "sampler", "generated", "imagefile", "class_folders", "unpickle"),
    *("acting", "cheetah", "half_cheetah"),
    *("about", "inspection", "picture_check", "presence"),
    *("listed", "listed_sources", "split_file", "image_store", "cifar100"),
    *("own_rows", "row_groups", "scaling", "table_file", "task_pool"),
)


def conf_dir() -> Path:
    """Return the path of ``conf/``: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(metarun.__file__).parent
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "train.yaml").exists())


def choices(group: str) -> list[str]:
    """List the options of a group, its YAML files; those of ``recipe`` are in one folder for each data set."""
    folder = conf_dir() / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


class Described(NamedTuple):
    """What the YAML file of an option says.

    Attributes:
        module: the module of its class.
        words: its first sentence, or what stands before a semicolon, without the full stop.
    """

    module: str
    words: str


def described(group: str) -> dict[str, Described]:
    """Return what the YAML file of each option of a group of ``PARTS`` says, without reading it as YAML."""
    texts = {name: (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8") for name in choices(group)}

    def module(name: str) -> str:
        if found := re.search(rf"/schema/{group}/(\w+)@", texts[name]):
            return found[1]
        inherited = re.search(r"^  - (?!_self_)(\w+)$", texts[name], re.M)
        return module(inherited[1]) if inherited else name

    def words(text: str) -> str:
        comments = re.findall(r"^# (?!@)(.*)$", text.partition("defaults:")[0], re.M)
        return re.split(r"; |\.(?: |$)", " ".join(comments))[0]

    return {name: Described(module(name), words(text)) for name, text in texts.items()}


def tables() -> list[str]:
    """List the published tables, the folders of ``recipe``."""
    return sorted({name.split("/")[0] for name in choices("recipe")})


def modules(group: str) -> list[str]:
    """List the modules that hold a class of this group of ``PACKAGES``, without importing them."""
    package = importlib.import_module(f"metarun.{PACKAGES[group]}")
    return [info.name for info in pkgutil.iter_modules(package.__path__) if info.name not in SHARED]


def part_classes(group: str) -> dict[str, type]:
    """Import the classes of a group of ``PACKAGES``.

    Returns:
        Module name -> its one concrete class.

    Raises:
        TypeError: a module does not have exactly one; the message names the file.
    """
    return {
        name: _class_in(importlib.import_module(f"metarun.{PACKAGES[group]}.{name}"), group) for name in modules(group)
    }


def own_trackers(config_dir: str | None) -> dict[str, type]:
    """Import the user's own trackers: ``tracker/NAME.py`` beside ``tracker/NAME.yaml``.

    Args:
        config_dir: the folder with the user's own options; None: there is none.

    Returns:
        ``tracker/NAME`` -> the one concrete class in the file.

    Raises:
        UserError: a file cannot be imported, or does not have exactly one.
    """
    files = sorted(Path(config_dir).glob("tracker/*.py")) if config_dir is not None else []
    try:
        return {f"tracker/{file.stem}": _class_in(_module_of(file), "tracker") for file in files}
    except TypeError as error:
        raise UserError(str(error)) from None


def _module_of(file: Path) -> ModuleType:
    """Import a Python file by its path, once a process. Raises ``UserError`` where that fails."""
    name = f"own_tracker_{file.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file.absolute()):
        return known
    spec = importlib.util.spec_from_file_location(name, file.absolute())
    assert spec is not None and spec.loader is not None, "the name ends with .py"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # its dataclasses look for their module there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of whatever kind: it is the user's code
        del sys.modules[name]
        raise UserError(f"{file}: cannot be imported ({type(error).__name__}: {first_line(error)})") from error
    return module


def _class_in(module: ModuleType, group: str) -> type:
    """Return the one concrete class of a module. Raises ``TypeError`` where there is not exactly one."""
    base = getattr(importlib.import_module(f"metarun.{PACKAGES[group]}.base"), BASES[group])
    concrete = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]
    if len(concrete) != 1:
        raise TypeError(f"{module.__file__}: needs exactly one concrete {base.__name__}, has {len(concrete)}")
    return concrete[0]


def part(group: str, name: str) -> type:
    """Return the class of the module ``name`` of a group.

    Raises:
        UserError: there is no such module in this installation.
    """
    classes = part_classes(group)
    if name not in classes:
        raise UserError(
            f"{group}: this run's is in metarun/{PARTS[group]}/{name}.py, which is not installed here; there are "
            f"{', '.join(classes)}"
        )
    return classes[name]
