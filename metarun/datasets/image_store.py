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

import filelock
import numpy as np
import torch

from metarun.errors import UserError
from metarun.files import cache_dir, read_file, write_json
from metarun.out_of_memory import GB, require_room

CHECKED = 2 * GB  # bytes up to which an array is compared with its checksum each time that it is opened
SPARE = 0.1 * GB  # bytes that stay free on the disk


def stored(name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> tuple[np.ndarray, str]:
    """Open an array of the cache, or make and store it if the files are missing or damaged.

    Processes that need the same array at the same time wait for the first of them. Where the cache cannot be written,
    the array is made in memory, and a warning says so.

    Args:
        name: the files are ``cache_dir()/name.npy`` and ``.json``; it says all that the values depend on.
        shape: shape of the array, uint8.
        fill: writes the values; the array is 0 before.

    Returns:
        The array, of which only what is read takes memory, and its SHA-256.

    Raises:
        UserError: neither disk nor memory has room for the array.
    """
    path = cache_dir() / f"{name}.npy"
    if found := _opened(path, shape):
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{name}.lock"))
        lock.acquire()
    except OSError as error:
        warnings.warn(f"{path}: not cached ({error})", stacklevel=2)
        return _in_memory(shape, fill)
    with lock:
        found = _opened(path, shape)
        if not found:
            _write(path, shape, fill)
            found = _opened(path, shape)
    assert found, "it has just been written"
    return found


def _opened(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, str] | None:
    """The array and its checksum, if both files are there and fit. Warns of damaged ones."""
    facts = read_file(path.with_suffix(".json"))  # written last
    if facts is None:
        return None
    try:
        sha256 = json.loads(facts)["sha256"]
        array = np.load(path, mmap_mode="c")  # changes, of which there are none, would stay in memory
        if array.shape != shape or array.dtype != np.uint8:
            raise ValueError(f"it has shape {array.shape}")
        if array.nbytes <= CHECKED and _checksum(array) != sha256:
            raise ValueError("its checksum does not fit")
    except Exception as error:  # numpy raises many kinds of error for a file that is not as it was written
        warnings.warn(f"{path}: damaged ({error}); making it again", stacklevel=3)
        return None
    return array, sha256


def _write(path: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> None:
    facts, half = path.with_suffix(".json"), path.with_name(f".{path.name}.tmp")
    needed = math.prod(shape)
    for old in (facts, path, half):  # also what a killed process left
        old.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if needed + SPARE > free:
        raise UserError(
            f"dataset: its prepared images take {needed / GB:,.1f} GB on disk, and {path.parent} has "
            f"{free / GB:,.1f} GB free; METARUN_CACHE names another folder, and a smaller dataset.size takes less"
        )
    try:
        array = np.lib.format.open_memmap(half, mode="w+", dtype=np.uint8, shape=shape)
        fill(array)
        array.flush()
        sha256 = _checksum(array)
        del array  # Windows does not rename a file that is mapped
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
    write_json(facts, {"sha256": sha256})


def _in_memory(shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> tuple[np.ndarray, str]:
    require_room(math.prod(shape), torch.device("cpu"), "dataset: its images", "dataset.size")
    array = np.zeros(shape, np.uint8)
    fill(array)
    return array, _checksum(array)


def _checksum(array: np.ndarray) -> str:
    return hashlib.sha256(array.data).hexdigest()
