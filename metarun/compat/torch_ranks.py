"""Connection of the processes that torchrun starts. Last seen in torch 2.13."""

from __future__ import annotations

import datetime
import os

import torch.distributed as dist


def meet(patience: datetime.timedelta) -> tuple[dist.Store, int, int]:
    """Wait for the other ranks.

    Args:
        patience: how long to wait.

    Returns:
        The store that all ranks share, this process's rank, the number of ranks.

    Raises:
        RuntimeError: a rank did not come.
    """
    store, rank, world = next(dist.rendezvous("env://", timeout=patience))
    # After a failure torchrun restarts the ranks with the same store. Without a prefix of its own, a new attempt could
    # read the addresses of the dead ranks there.
    return dist.PrefixStore(f"metarun{os.environ['TORCHELASTIC_RESTART_COUNT']}", store), rank, world
