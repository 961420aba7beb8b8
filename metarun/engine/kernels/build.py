"""Compile the native kernels once, keep them in the cache folder, load them.

This process runs the compiled code, so other users must not be able to change it: the folder belongs to this user
alone, the file name ends in the checksum of the file's content, and the file that was checked is the one that is
loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.errors import UserError
from metarun.files import cache_dir

HERE = Path(__file__).parent
FLAGS = ["-O3", "-ffp-contract=fast", "-std=c++17", "-fPIC"]
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


class NotBuilt(UserError):
    """The native kernels could not be compiled or loaded."""


class Library:
    """The compiled kernels. The attribute ``width`` is the number of float32 in one vector of this machine.

    Args:
        path: the library's file.
        file: an open descriptor N of that file. It must stay open: the loader knows the library by the path
            ``/proc/self/fd/N``, and would return it again for any other file that gets the number N.
    """

    def __init__(self, path: Path, file: int):
        self.path, opened = path, f"/proc/self/fd/{file}"
        self._functions = ctypes.CDLL(opened if os.path.exists(opened) else str(path))
        self.width = int(self._functions.vector_width())

    def whole(self, channels: int, dtype: torch.dtype) -> int:
        """Return the number of channels rounded up to whole vectors, as in the kernels' own arrays."""
        lanes = self.width if dtype is torch.float32 else self.width // 2
        return -(-channels // lanes) * lanes

    def call(self, name: str, *arguments: Any) -> None:
        """Run a kernel in the precision of the first tensor argument. Tensors must be contiguous."""
        suffix = next(SUFFIX[a.dtype] for a in arguments if isinstance(a, Tensor))
        getattr(self._functions, f"{name}_{suffix}")(*(_as_c(a) for a in arguments))


def _as_c(argument: Any) -> object:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous(), "a kernel got a strided tensor"
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_int(argument)


@functools.cache
def library() -> Library:
    """Load the kernels, after compiling them (a few seconds) where the cache does not hold them.

    Raises:
        NotBuilt: there is no C++ compiler, compiling or loading failed, or the cache folder cannot be used.
    """
    sources = sorted([*HERE.glob("*.h"), *HERE.glob("*.cpp")])
    compiler = _compiler()
    machine = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    parts = [*(path.read_bytes() for path in sources), *(word.encode() for word in (*compiler, *FLAGS, machine))]
    parts.append(_processor())
    start = f"native-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}-"
    cache = cache_dir().absolute()
    try:
        folder = _private(cache)
        found = [opened for path in sorted(folder.glob(f"{start}*.so")) if (opened := _opened(path, start))]
        if not found:
            made = _compile(compiler, [*FLAGS, machine], folder, start)
            found = [opened for opened in [_opened(made, start)] if opened]
    except OSError as error:
        raise NotBuilt(f"the compiled kernels cannot be kept in {cache}: {error.strerror}") from None
    try:
        return Library(*found[0])
    except (OSError, AttributeError, IndexError) as error:
        raise NotBuilt(f"the compiled kernels do not load: {error}") from None


def _private(cache: Path) -> Path:
    """Make and check this user's own folder in the cache, which several users may share."""
    folder = cache / f"native-{os.getuid()}" if hasattr(os, "getuid") else cache / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = cache.stat()
    if hasattr(os, "getuid") and status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise NotBuilt(f"everybody can write to {cache}: 'chmod o-w' it, or set METARUN_CACHE to another folder")
    _refuse_others(folder, folder.stat())
    return folder


def _refuse_others(path: Path, status: os.stat_result) -> None:
    """Raise ``NotBuilt`` where another user could have written the compiled code."""
    if not hasattr(os, "getuid"):
        return
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotBuilt(f"other users can write {path}: remove it, or set METARUN_CACHE to a folder of your own")


def _opened(path: Path, start: str) -> tuple[Path, int] | None:
    """Return a library and an open descriptor of it. Removes it and returns None where its checksum is wrong."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    _refuse_others(path, os.fstat(file))
    with open(file, "rb", closefd=False) as reader:
        if path.name == f"{start}{hashlib.sha256(reader.read()).hexdigest()}.so":
            return path, file
    os.close(file)
    warnings.warn(f"{path}: damaged; compiling the kernels again", stacklevel=2)
    path.unlink(missing_ok=True)
    return None


def _compiler() -> list[str]:
    """Return the compiler command; the environment variable CXX may contain arguments too."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        command, *arguments = shlex.split(name)
        if found := shutil.which(command):
            return [found, *arguments]
    raise NotBuilt(f"no C++ compiler here (looked for {', '.join(names)})")


def _processor() -> bytes:
    """Return the processor's features: different machines may share one cache, and the code depends on them."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")


def _compile(compiler: list[str], flags: list[str], folder: Path, start: str) -> Path:
    """Compile with OpenMP, or for one thread where the compiler has no OpenMP or torch uses another one.

    The OpenMP library is not linked: torch has loaded it already, and the kernels share its threads. Two pools of
    threads would wait for each other in busy loops.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made, linked = Path(scratch) / "native.o", Path(scratch) / "native.so"
        link = ["-shared", *(["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else [])]
        for openmp in (["-fopenmp"], []):
            done = _run([*compiler, *flags, *openmp, "-c", str(HERE / "native.cpp"), "-o", str(made)])
            if done.returncode == 0:
                done = _run([*compiler, *link, str(made), "-o", str(linked)])
            problem = (done.stderr.strip().splitlines() or ["no message"])[0]
            if done.returncode == 0:
                try:
                    ctypes.CDLL(str(linked))
                except OSError as error:
                    problem = str(error)
                else:
                    target = folder / f"{start}{hashlib.sha256(linked.read_bytes()).hexdigest()}.so"
                    linked.chmod(0o600)
                    os.replace(linked, target)
                    return target
        raise NotBuilt(f"{compiler[0]} fails: {problem}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command[0]} fails: {error}") from None
