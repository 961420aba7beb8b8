"""Files that are either whole or absent, and where metarun keeps what it can make again."""

from __future__ import annotations

import io
import json
import math
import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from metarun.errors import UserError

WINDOWS = os.name == "nt"  # where a folder cannot be opened, so not be synced either


def write_atomic(path: Path, data: bytes, keep_old: Path | None = None) -> None:
    """Write through a temporary file, fsync and rename: a reader or a crash sees the old file or the new one.

    With ``keep_old`` the file that was there goes to that path, once the new one is safely on disk.
    Raises ``OSError`` that names the path (read-only folder, full disk); the old file is then untouched.
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
    except OSError as error:  # some name no file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    if not WINDOWS:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_torn(paths: Iterable[Path]) -> None:
    """Remove what a kill left of ``write_atomic`` on these paths. Only for who alone writes them."""
    for path in paths:
        for torn in path.parent.glob(f".{path.name}.*.tmp"):
            torn.unlink(missing_ok=True)


def user_path(text: str | Path) -> Path:
    """A path as a user writes it: ``~`` is the home folder, where there is one."""
    return Path(os.path.expanduser(text))


def read_file(path: Path) -> bytes | None:
    """The bytes of a file, None where nothing is.

    Raises ``UserError`` for what is no file (a folder, a pipe, a link to nothing), and for one that cannot be read.
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
    """JSON that every reader takes: a number that is not finite is written as null."""
    write_atomic(path, (json.dumps(finite(value), indent=2, allow_nan=False) + "\n").encode())


def finite(value: Any) -> Any:
    """The same with None in place of every float that is not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cache_dir() -> Path:
    """Folder of prepared data: ``$METARUN_CACHE``, else ``metarun`` in the user's cache folder. May not exist yet."""
    if chosen := os.environ.get("METARUN_CACHE"):
        return user_path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarun"


def cached_arrays(name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in ``cache_dir()/name.npz``; made and put there if the file is missing or damaged.

    Warns of a damaged file, and of a cache that cannot be written.
    """
    path = cache_dir() / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file) as stored:  # npz carries a CRC of every array
            return dict(stored)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
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
