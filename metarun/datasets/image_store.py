"""Prepared images in the cache folder, mapped into memory: a set may be larger than the machine's memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import torch

from metarun.errors import UserError
from metarun.files import cache_dir, read_file, sources_are_checked, write_json
from metarun.out_of_memory import GB, require_room

CHECKED = 2 * GB  # bytes up to which an array is compared with its checksum each time that it is opened
SPARE = 0.1 * GB  # bytes that stay free on the disk
PATIENCE = 2  # seconds, after which a process that waits for another says so

Facts = dict[str, Any]  # plain data


class Stored(NamedTuple):
    """An array of the cache.

    Attributes:
        array: uint8, of which only what is read takes memory.
        sha256: its checksum.
        facts: what else was found out as it was made.
    """

    array: np.ndarray
    sha256: str
    facts: Facts


def stored(name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], Facts]) -> Stored:
    """Open an array of the cache, or make and store it if the files are missing or damaged.

    Processes that need the same array at the same time wait for the first of them. Where the cache cannot be written,
    and within ``checking_sources``, the array is made in memory.

    Args:
        name: the files are ``cache_dir()/name.npy`` and ``.json``; it says all that the values depend on.
        shape: shape of the array, uint8.
        fill: writes the values, of which the array has none yet, and returns facts about them.

    Raises:
        UserError: neither disk nor memory has room for the array.
    """
    if sources_are_checked():
        return _in_memory(shape, fill)
    path = cache_dir() / f"{name}.npy"
    if found := _opened(path, shape):
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{name}.lock"))
        try:
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            warnings.warn(f"{path}: another process makes it; waiting until it is done", stacklevel=2)
            lock.acquire()
    except OSError as error:
        warnings.warn(f"{path}: not cached ({error})", stacklevel=2)
        return _in_memory(shape, fill)
    with lock:
        return _opened(path, shape) or _write(path, shape, fill)


def _opened(path: Path, shape: tuple[int, ...]) -> Stored | None:
    """What the files hold, if both are there and fit. Warns of damaged ones."""
    data = read_file(path.with_suffix(".json"))  # written last
    if data is None:
        return None
    try:
        content = json.loads(data)
        array = np.load(path, mmap_mode="c")  # changes, of which there are none, would stay in memory
        if array.shape != shape or array.dtype != np.uint8:
            raise ValueError(f"it has shape {array.shape}")
        if array.nbytes <= CHECKED and _checksum(array) != content["sha256"]:
            raise ValueError("its checksum does not fit")
        return Stored(array, content["sha256"], content["facts"])
    except Exception as error:  # numpy raises many kinds of error for a file that is not as it was written
        warnings.warn(f"{path}: damaged ({error}); making it again", stacklevel=3)
        return None


def _write(path: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], Facts]) -> Stored:
    said, half = path.with_suffix(".json"), path.with_name(f".{path.name}.tmp")
    needed = math.prod(shape)
    for old in (said, path, half):  # also what a killed process left
        old.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if needed + SPARE > free:
        raise UserError(
            f"dataset: its prepared images take {needed / GB:,.1f} GB on disk, and {path.parent} has "
            f"{free / GB:,.1f} GB free; METARUN_CACHE names another folder, and a smaller dataset.size takes less"
        )
    try:
        array = np.lib.format.open_memmap(half, mode="w+", dtype=np.uint8, shape=shape)
        facts = fill(array)
        array.flush()
        sha256 = _checksum(array)
        del array  # Windows does not rename a file that is mapped
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
    write_json(said, {"sha256": sha256, "facts": facts})
    return Stored(np.load(path, mmap_mode="c"), sha256, facts)


def _in_memory(shape: tuple[int, ...], fill: Callable[[np.ndarray], Facts]) -> Stored:
    require_room(math.prod(shape), torch.device("cpu"), "dataset: its images", "dataset.size")
    array = np.empty(shape, np.uint8)
    facts = fill(array)
    return Stored(array, _checksum(array), facts)


def _checksum(array: np.ndarray) -> str:
    return hashlib.sha256(array.data).hexdigest()
