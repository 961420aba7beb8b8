"""Memory: refuse work that certainly does not fit, and report a failed allocation in one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.compat.torch_errors import bytes_asked_for, is_out_of_memory
from metarun.errors import OutOfMemory, UserError

if TYPE_CHECKING:
    import torch

GB = 1e9
REMEDY = "a smaller device.chunk, meta_batch, way, shot, query, dataset.size or model takes less, and so does "
REMEDY += "algo.hypergrad=recompute where algo.inner_steps are many"


def machine_memory(device: torch.device) -> float:
    """Return the memory in bytes that this process can use at most.

    On a CPU this is the container's limit, if there is one; infinity if the system does not report one.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    limits = [float("inf")]
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def require_room(needed: float, device: torch.device, what: str, keys: str) -> None:
    """Raise ``UserError`` if something needs more memory than the machine has.

    Args:
        needed: bytes.
        device: where the memory is needed.
        what: key, value and purpose, for the message.
        keys: keys whose smaller value would need less, for the message.
    """
    there = machine_memory(device)
    if needed > there:
        raise UserError(
            f"{what} would take {needed / GB:,.1f} GB of memory at once, and there are {there / GB:,.1f} GB; "
            f"a smaller {keys} takes less"
        )


@contextlib.contextmanager
def out_of_memory_in_one_line() -> Iterator[None]:
    """Convert errors of torch, numpy and Python about a failed allocation into ``OutOfMemory``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        amount = bytes_asked_for(error) / GB
        more = f" ({amount:,.1f} GB more were asked for)" if amount >= 0.1 else ""
        raise OutOfMemory(f"out of memory{more}: {REMEDY}") from error
