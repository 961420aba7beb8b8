"""Atomic files (complete or absent), the folder of data sets, and the cache of prepared data."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from metarun.errors import UserError

WINDOWS = os.name == "nt"  # Windows cannot open a folder, so cannot sync it


def write_atomic(path: Path, data: bytes, keep_old: Path | None = None) -> None:
    """Write a file through a temporary file, fsync and rename: after a crash the old file or the new one is there.

    Args:
        path: the file.
        data: its content.
        keep_old: where to move the old file once the new one is safely on disk; None: it is replaced.

    Raises:
        OSError: the file cannot be written (read-only folder, full disk); names the path; the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep_old is not None and path.exists():
            os.replace(path, keep_old)
        os.replace(temporary, path)
    except OSError as error:  # some of these errors do not name the file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only folder refuses this too, and has said why above
            temporary.unlink(missing_ok=True)
    if not WINDOWS:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def require_new_folder(folder: Path, key: str) -> None:
    """Raise ``UserError`` if ``folder`` cannot be made: it holds something, or it or a folder above it is a file."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not there.is_dir():
        raise UserError(f"{key}={folder}: must be a new folder{'' if there == folder else f', and {there} is a file'}")
    if there == folder and any(folder.iterdir()):
        raise UserError(f"{key}={folder}: is there already and not empty; choose a new folder")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that is complete or not there: yields one beside it to fill, which gets its name at the end.

    Args:
        folder: the folder; it may exist if it is empty.

    Raises:
        UserError: it cannot be made, or is not empty.
    """
    require_new_folder(folder, "out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    filled = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    filled.mkdir()
    try:
        yield filled
        if folder.exists():
            folder.rmdir()  # empty, or this fails
        os.rename(filled, folder)
    except BaseException:
        shutil.rmtree(filled, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text as ``write_atomic`` does. Bytes of a name that is not UTF-8 are written as ``\\udcXX``."""
    write_atomic(path, text.encode(errors="backslashreplace"))


def remove_torn(paths: Iterable[Path]) -> None:
    """Remove temporary files that a killed ``write_atomic`` left for these paths. No other process may write them."""
    for path in paths:
        for torn in path.parent.glob(f".{path.name}.*.tmp"):
            torn.unlink(missing_ok=True)


def user_path(text: str | Path) -> Path:
    """Convert a path that a user typed: ``~`` becomes the home folder, if there is one."""
    return Path(os.path.expanduser(text))


def read_file(path: Path) -> bytes | None:
    """Read the bytes of a file; None if the path does not exist.

    Raises:
        UserError: it is not a plain file (a folder, a pipe, a broken link), or cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return None
        raise UserError(f"{path}: is a link to a file that is not there") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise UserError(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'no plain file'}, where a file should be")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically; a number that is not finite becomes null."""
    write_atomic(path, (json.dumps(finite(value), indent=2, allow_nan=False) + "\n").encode())


def finite(value: Any) -> Any:
    """Replace every float that is not finite by None, since JSON cannot represent it."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cache_dir() -> Path:
    """Folder of prepared data: ``$METARUN_CACHE``, else ``metarun`` in the user's cache folder; may not exist yet."""
    if chosen := os.environ.get("METARUN_CACHE"):
        return user_path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarun"


def default_data_root() -> Path:
    """Folder where data sets are looked for and downloaded to: ``$METARUN_DATA``, else ``data`` in the cache folder."""
    return user_path(os.environ.get("METARUN_DATA") or cache_dir() / "data")


_checking = ContextVar("checking", default=False)


@contextlib.contextmanager
def checking_sources() -> Iterator[None]:
    """Read data from what is there, within the context: not from the cache, and without a download."""
    before = _checking.set(True)
    try:
        yield
    finally:
        _checking.reset(before)


def sources_are_checked() -> bool:
    """Whether this is within ``checking_sources``."""
    return _checking.get()


def cached_arrays(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Load arrays from the cache, or make and store them if the file is missing or damaged.

    Warns of a damaged file, and of a cache that cannot be written. Within ``checking_sources`` they are only made.

    Args:
        name: the file is ``cache_dir()/name.npz``.
        make: makes the arrays, by name.
    """
    if sources_are_checked():
        return make()
    path = cache_dir() / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file) as stored:  # npz has a checksum of every array
            return dict(stored)
    except FileNotFoundError:
        pass
    except Exception as error:  # zip, zlib and numpy raise many kinds of error for a file that is not as it was written
        warnings.warn(f"{path}: damaged ({error}); making it again", stacklevel=2)
    arrays = make()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        warnings.warn(f"{path}: not cached ({error})", stacklevel=2)
    return arrays
