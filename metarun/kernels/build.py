"""Compile the native kernels once, keep them in the cache folder, load them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.errors import UserError
from metarun.files import cache_dir, write_atomic

HERE = Path(__file__).parent
FLAGS = ["-O3", "-ffp-contract=fast", "-std=c++17", "-fPIC"]
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


class NotBuilt(UserError):
    """The native kernels cannot be had on this machine."""


class Library:
    """The compiled kernels. ``width``: float32 numbers in a vector of this machine."""

    def __init__(self, path: Path):
        self._functions = ctypes.CDLL(str(path))
        self.width = int(self._functions.vector_width())

    def divides(self, channels: int, dtype: torch.dtype) -> bool:
        """Whether this many channels fill whole vectors."""
        return channels % (self.width if dtype is torch.float32 else self.width // 2) == 0

    def call(self, name: str, *arguments: Any) -> None:
        """Run a kernel in the precision of the first tensor; tensors must be contiguous."""
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
    """The kernels, compiled if they are not in the cache (a few seconds). Raises ``NotBuilt``."""
    sources = sorted([*HERE.glob("*.h"), *HERE.glob("*.cpp")])
    compiler = _compiler()
    machine = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    parts = [*(path.read_bytes() for path in sources), *(word.encode() for word in (*compiler, *FLAGS, machine))]
    parts.append(_processor())
    target = cache_dir().absolute() / f"native-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    try:
        if not target.exists():
            _compile(compiler, [*FLAGS, machine], target)
    except OSError as error:
        raise NotBuilt(f"the compiled kernels cannot be kept in {target.parent}: {error.strerror}") from None
    try:
        return Library(target)
    except (OSError, AttributeError) as error:
        raise NotBuilt(f"the compiled kernels do not load: {error}") from None


def _compiler() -> list[str]:
    """The command, with the arguments that CXX may have."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        command, *arguments = shlex.split(name)
        if found := shutil.which(command):
            return [found, *arguments]
    raise NotBuilt(f"no C++ compiler here (looked for {', '.join(names)})")


def _processor() -> bytes:
    """What the compiled code depends on beyond its source: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")


def _compile(compiler: list[str], flags: list[str], target: Path) -> None:
    """With OpenMP where the compiler has it and torch the same one; else for one thread.

    Linked without OpenMP's library, so that torch's, already loaded, serves both: two pools of threads would wait for
    each other by spinning.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made, linked = Path(folder) / "native.o", Path(folder) / "native.so"
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
                    write_atomic(target, linked.read_bytes())
                    return
        raise NotBuilt(f"{compiler[0]} fails: {problem}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command[0]} fails: {error}") from None
