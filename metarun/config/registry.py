"""The parts that a configuration chooses from: one concrete class in each file of three packages, found by looking."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import metarun
from metarun.algorithms.base import Algorithm
from metarun.datasets.base import Dataset
from metarun.errors import UserError
from metarun.models.base import Model

PARTS: dict[str, type] = {"dataset": Dataset, "model": Model, "algo": Algorithm}  # configuration group -> base class
PACKAGES = {"dataset": "datasets", "model": "models", "algo": "algorithms"}
SHARED = ("base", "sampler", "generated", "imagefile", "class_folders", "unpickle")  # files that hold no part


def conf_dir() -> Path:
    """``conf/``: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(metarun.__file__).parent
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "train.yaml").exists())


def choices(group: str) -> list[str]:
    """Options of a group: its YAML files; those of ``recipe`` lie in a folder for each data set."""
    folder = conf_dir() / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def part_classes(group: str) -> dict[str, type]:
    """Module name -> its one concrete class, for a group in ``PARTS``.

    Raises ``TypeError``, naming the file, for a module without exactly one.
    """
    package = importlib.import_module(f"metarun.{PACKAGES[group]}")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.name in SHARED:
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        concrete = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, PARTS[group])
            and value.__module__ == module.__name__
            and not inspect.isabstract(value)
        ]
        if len(concrete) != 1:
            raise TypeError(
                f"{module.__file__}: needs exactly one concrete {PARTS[group].__name__}, has {len(concrete)}"
            )
        found[info.name] = concrete[0]
    return found


def part(group: str, name: str) -> type:
    """The class in the module of this name. Raises ``UserError`` where it is not installed here."""
    classes = part_classes(group)
    if name not in classes:
        raise UserError(
            f"{group}: this run's is in metarun/{PACKAGES[group]}/{name}.py, which is not installed here; there are "
            f"{', '.join(classes)}"
        )
    return classes[name]
