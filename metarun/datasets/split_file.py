"""Split files: JSON with the class names of meta-training, validation and test; published ones are in ``splits``."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from pathlib import Path

from metarun.datasets.base import Split
from metarun.errors import ConfigError, UserError
from metarun.files import read_file, user_path

Listed = dict[Split, list[str]]  # class names of each split
SUFFIX = ".json"


def published(name: str) -> Listed:
    """Return the class names of each split in ``splits/NAME.json``.

    Raises:
        ConfigError: there is no such file.
    """
    folder = resources.files("metarun.datasets").joinpath("splits")
    known = sorted(path.name.removesuffix(SUFFIX) for path in folder.iterdir() if not path.name.startswith("omniglot"))
    if name not in known:
        raise ConfigError(
            "dataset.split", name, f"one of {', '.join(known)}, or the path of a file that ends with .json"
        )
    listed = json.loads(folder.joinpath(f"{name}{SUFFIX}").read_text())
    return {split: listed[split.name] for split in Split}


def listed_in(split: str, data_root: Path) -> tuple[Listed, bool]:
    """Return the class names of each split, and whether the list is a user's own.

    Args:
        split: name of a published list, or path of a user's file, relative to ``data_root`` or absolute.
        data_root: folder of the data sets.

    Raises:
        UserError: there is no such list, or it is not three lists of different names.
    """
    own = split.endswith(SUFFIX)
    return (_own(data_root / user_path(split)) if own else published(split)), own


def in_words(split: str, listed: Listed) -> str:
    """Describe a split for the protocol: ``cifar_fs 64/16/20``; a user's list is called ``own``."""
    counts = "/".join(str(len(listed[part])) for part in Split)
    return f"own {counts}, {Path(split).name}" if split.endswith(SUFFIX) else f"{split} {counts}"


def _own(path: Path) -> Listed:
    said = f"dataset.split={path}"
    data = read_file(path)
    if data is None:
        raise UserError(f"{said}: is not there; it is JSON with three lists of class names: train, val, test")
    try:
        content = json.loads(data)
        listed = {split: content[split.name] for split in Split}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{said}: is not JSON with the lists train, val and test ({error!r})") from None
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in listed.values()):
        raise UserError(f"{said}: train, val and test must be lists of class names")
    times = Counter(name for names in listed.values() for name in names)
    if twice := [name for name, count in times.items() if count > 1]:
        raise UserError(f"{said}: class {twice[0]} is listed {times[twice[0]]} times")
    if not times:
        raise UserError(f"{said}: lists no class")
    return listed
