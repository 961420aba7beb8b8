"""Where the run computes and how it lays out tasks there."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from metarun.errors import ConfigError, require
from metarun.ranks import current
from metarun.vectorize import Vectorize


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

    def __post_init__(self) -> None:
        for name in ("threads", "chunk"):
            value = getattr(self, name)
            allowed = value == "auto" or (value.isdecimal() and int(value) >= 1)
            require(allowed, name, value, "auto or a whole number >= 1")

    def resolve(self) -> torch.device:
        """The torch device, a GPU of its own for each rank; sets the number of threads.

        Raises ``ConfigError`` for cuda where there is none.
        """
        if self.threads != "auto":
            torch.set_num_threads(int(self.threads))
        if self.kind is Kind.cuda and not torch.cuda.is_available():
            raise ConfigError("device", "cuda", "cpu or auto on this machine: torch sees no CUDA device")
        use_cuda = self.kind is not Kind.cpu and torch.cuda.is_available()
        if not use_cuda:
            return torch.device("cpu")
        if (local := current().local) > 0:
            seen = torch.cuda.device_count()
            require(local < seen, "device", "cuda", f"cpu with more ranks on a machine than the {seen} GPUs torch sees")
            torch.cuda.set_device(local)
        return torch.device("cuda")

    def tasks_at_once(self, device: torch.device) -> int | None:
        """Chunk size for ``vectorize.over_tasks``. auto: 8 on a CPU, whose cache a few tasks fill; all on a GPU."""
        if self.chunk != "auto":
            return int(self.chunk)
        return 8 if device.type == "cpu" else None
