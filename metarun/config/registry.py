"""The parts that a configuration chooses from: one concrete class in each file of three packages, found by search."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import metarun
from metarun.errors import UserError

PARTS = {"dataset": "datasets", "model": "models", "algo": "algorithms"}  # configuration group -> package
GROUPS = (*PARTS, "device")
BASES = {"dataset": "Dataset", "model": "Model", "algo": "Algorithm"}  # the base class, in the package's base.py
SHARED = (  # files that hold no part
    *("base", "sampler", "generated", "imagefile", "class_folders", "unpickle"),
    *("acting", "cheetah", "half_cheetah"),
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


def tables() -> list[str]:
    """List the published tables, the folders of ``recipe``."""
    return sorted({name.split("/")[0] for name in choices("recipe")})


def modules(group: str) -> list[str]:
    """List the modules that hold a part of this group of ``PARTS``, without importing them."""
    package = importlib.import_module(f"metarun.{PARTS[group]}")
    return [info.name for info in pkgutil.iter_modules(package.__path__) if info.name not in SHARED]


def part_classes(group: str) -> dict[str, type]:
    """Import the parts of a group of ``PARTS``.

    Returns:
        Module name -> its one concrete class.

    Raises:
        TypeError: a module does not have exactly one; the message names the file.
    """
    base = getattr(importlib.import_module(f"metarun.{PARTS[group]}.base"), BASES[group])
    found = {}
    for name in modules(group):
        module = importlib.import_module(f"metarun.{PARTS[group]}.{name}")
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
        found[name] = concrete[0]
    return found


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
