"""Where the run computes and how it lays out tasks there."""

from __future__ import annotations

import ctypes
import enum
import sys
from dataclasses import dataclass

import torch

from metarun.engine.over_tasks import Compile, Vectorize
from metarun.engine.ranks import current
from metarun.errors import ConfigError, require

MOST_THREADS = 1024  # as many as large machines have; tens of thousands can take a process down


class Kind(enum.Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True, slots=True)
class Device:
    kind: Kind
    threads: str  # CPU threads, or "auto": torch's own choice
    vectorize: Vectorize
    chunk: str  # tasks computed side by side, or "auto"
    compile: str  # "auto", "true" or "false"

    def __post_init__(self) -> None:
        for name, most in (("threads", MOST_THREADS), ("chunk", 10**6)):
            value = getattr(self, name)
            allowed = value == "auto" or (value.isdecimal() and len(value) < 9 and 1 <= int(value) <= most)
            require(allowed, name, value, f"auto or a whole number 1..{most}")
        known = self.compile.lower() in Compile.__members__  # the command line's true arrives as True
        require(known, "compile", self.compile, "auto, true or false")

    def resolve(self) -> torch.device:
        """The torch device, a GPU of its own for each rank; sets the number of threads.

        Raises ``ConfigError`` for cuda where there is none.
        """
        if self.threads != "auto":
            torch.set_num_threads(int(self.threads))
        if self.kind is Kind.cuda and not torch.cuda.is_available():
            raise ConfigError("device", "cuda", "cpu or auto on this machine: torch sees no CUDA device")
        _keep_freed_memory()
        use_cuda = self.kind is not Kind.cpu and torch.cuda.is_available()
        if not use_cuda:
            return torch.device("cpu")
        if (local := current().local) > 0:
            seen = torch.cuda.device_count()
            require(local < seen, "device", "cuda", f"cpu with more ranks on a machine than the {seen} GPUs torch sees")
            torch.cuda.set_device(local)
        return torch.device("cuda")

    def compiling(self) -> Compile:
        """What to compile."""
        return Compile[self.compile.lower()]

    def tasks_at_once(self) -> int | None:
        """The chunk that was asked for; None: not said."""
        return None if self.chunk == "auto" else int(self.chunk)


def _keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next tensor instead of returning it to the system.

    Every large tensor is otherwise made of fresh pages, which the system fills with zeros: a third of a meta-step on
    convolutional networks. Only glibc has the setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # malloc.h
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
