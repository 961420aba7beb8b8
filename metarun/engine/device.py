"""Device settings: the processor, its threads, and how tasks are batched and compiled there."""

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

MOST_THREADS = 1024  # as many as large machines have; tens of thousands can crash a process


class Kind(enum.Enum):
    """Processor to compute on.

    Attributes:
        auto: a CUDA GPU if torch sees one, else the CPU.
        cpu: the CPU.
        cuda: a CUDA GPU.
    """

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True, slots=True)
class Device:
    """The settings of the group ``device``; ``conf/device/auto.yaml`` explains them.

    Attributes:
        kind: the processor.
        threads: number of CPU threads, or "auto": torch's default.
        vectorize: how the tasks of a meta-batch are run.
        chunk: number of tasks computed side by side, or "auto".
        compile: "auto", "true" or "false", the members of ``Compile``.
    """

    kind: Kind
    threads: str
    vectorize: Vectorize
    chunk: str
    compile: str

    def __post_init__(self) -> None:
        for name, most in (("threads", MOST_THREADS), ("chunk", 10**6)):
            value = getattr(self, name)
            allowed = value == "auto" or (value.isdecimal() and len(value) < 9 and 1 <= int(value) <= most)
            require(allowed, name, value, f"auto or a whole number 1..{most}")
        known = self.compile.lower() in Compile.__members__  # the command line's true arrives as True
        require(known, "compile", self.compile, "auto, true or false")

    def torch_device(self, local: int = 0) -> torch.device:
        """Return the torch device of one rank.

        Args:
            local: the rank's number on its machine, from 0.

        Raises:
            ConfigError: ``cuda`` is set, and this machine has no CUDA device, or fewer of them than ranks.
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
        """Apply the settings to this process within a ``with`` block and restore the old ones afterwards.

        They are the number of threads, the current GPU, and the allocator's setting to keep freed memory for reuse.

        Args:
            local: this rank's number on its machine, from 0, which is also the number of its GPU.

        Yields:
            The torch device.
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
        """Return the setting ``compile`` as an enum member."""
        return Compile[self.compile.lower()]

    def tasks_at_once(self) -> int | None:
        """Return the setting ``chunk``, tasks computed side by side; None for auto."""
        return None if self.chunk == "auto" else int(self.chunk)


@contextlib.contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Make the C library keep freed memory for the next tensor instead of returning it to the system.

    Otherwise every large tensor gets fresh pages, which the system first fills with zeros. That took a third of a
    meta-step on convolutional networks. Only glibc has this setting. It cannot be read, so afterwards glibc's defaults
    are set.
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
