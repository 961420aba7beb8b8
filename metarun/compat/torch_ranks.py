"""How the processes that torchrun starts find each other. Last seen in torch 2.13."""

from __future__ import annotations

import datetime
import os

import torch.distributed as dist


def meet(patience: datetime.timedelta) -> tuple[dist.Store, int, int]:
    """(what all ranks read and write, this one's rank, how many there are). Raises ``RuntimeError`` when it waits for
    longer than ``patience``."""
    store, rank, world = next(dist.rendezvous("env://", timeout=patience))
    # torchrun restarts ranks with the store that they had: without a name of its own, an attempt can read there
    # where the dead ranks of the one before could be reached
    return dist.PrefixStore(f"metarun{os.environ['TORCHELASTIC_RESTART_COUNT']}", store), rank, world
