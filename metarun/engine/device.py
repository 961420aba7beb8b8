"""Where the run computes and how it lays out tasks there."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from metarun.engine.over_tasks import Compile, Vectorize
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

    def torch_device(self, local: int = 0) -> torch.device:
        """The torch device for the rank of this number on its machine.

        Raises ``ConfigError`` for cuda where there is none, or fewer than ranks.
        """
        if self.kind is Kind.cuda and not torch.cuda.is_available():
            raise ConfigError("device", "cuda", "cpu or auto on this machine: torch sees no CUDA device")
        if self.kind is Kind.cpu or not torch.cuda.is_available():
            return torch.device("cpu")
        if local > 0:
            seen = torch.cuda.device_count()
            require(local < seen, "device", "cuda", f"cpu with more ranks on a machine than the {seen} GPUs torch sees")
        return torch.device("cuda")

    @contextlib.contextmanager
    def applied(self, local: int = 0) -> Iterator[torch.device]:
        """Within, this process computes there: its number of threads, its GPU, and memory that is kept for reuse.

        Afterwards all is as it was. local: this rank's number on its machine, and so its GPU's.
        """
        device, threads = self.torch_device(local), torch.get_num_threads()
        with _freed_memory_kept(), torch.cuda.device(local) if device.type == "cuda" else contextlib.nullcontext():
            try:
                if self.threads != "auto":
                    torch.set_num_threads(int(self.threads))
                yield device
            finally:
                torch.set_num_threads(threads)

    def compiling(self) -> Compile:
        """What to compile."""
        return Compile[self.compile.lower()]

    def tasks_at_once(self) -> int | None:
        """The chunk that was asked for; None: not said."""
        return None if self.chunk == "auto" else int(self.chunk)


@contextlib.contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Within, the C library keeps freed memory for the next tensor instead of returning it to the system.

    Every large tensor is otherwise made of fresh pages, which the system fills with zeros: a third of a meta-step on
    convolutional networks. Only glibc has the setting; it cannot be read, so its defaults are what is put back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mmap_threshold, trim_threshold, default = -3, -1, 128 * 1024  # malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    try:
        yield
    finally:
        mallopt(mmap_threshold, default)
        mallopt(trim_threshold, default)
