"""Ranks: the processes that torchrun starts for one run. They share its tasks; the first one speaks and writes."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from metarun.compat.torch_errors import without_place
from metarun.compat.torch_ranks import meet
from metarun.core import tree
from metarun.core.tree import Tree
from metarun.errors import RankLost, UserError

T = TypeVar("T")

# How long a rank waits for another that is alive and does not answer. More than anything that one does alone, such as
# preparing data; a rank that has died is noticed at once.
PATIENCE = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process's place among a run's processes; the default is a process on its own, to which nothing here costs.

    All ranks call the methods that talk in the same order; these raise ``RankLost`` where another rank is gone.
    """

    rank: int = 0
    world: int = 1  # how many there are
    local: int = 0  # this one's number on its machine, and so its GPU's
    store: dist.Store | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone prints and touches the run folder."""
        return self.rank == 0

    def share(self, indices: range) -> range:
        """This rank's part: shares are contiguous, in rank order, and differ by at most one; none where it is short."""
        n = len(indices)
        return indices[n * self.rank // self.world : n * (self.rank + 1) // self.world]

    def mean(self, grads: Tree, tasks: int, of: int) -> Tree:
        """The mean over all ``of`` tasks, with the same bits on every rank, from a mean over this rank's ``tasks``."""
        if self.world == 1:
            return grads
        flat = torch.cat([g.flatten() for g in tree.leaves(grads)]) * (tasks / of)  # one message, not one a parameter
        with _talking():
            dist.all_reduce(flat)
        parts = iter(flat.split([g.numel() for g in tree.leaves(grads)]))
        return tree.combine(lambda g: next(parts).view_as(g), grads)

    def highest(self, value: int) -> int:
        """The largest of the ranks' values; on the CPU, so that no GPU is waited for."""
        if self.world == 1:
            return value
        values = torch.tensor([value])
        with _talking():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def gather(self, mine: list[T]) -> list[T]:
        """All ranks' items (pickled; tensors on the CPU), in rank order."""
        if self.world == 1:
            return mine
        found: list[Any] = [None] * self.world
        with _talking():
            dist.all_gather_object(found, mine)
        return [item for items in found for item in items]

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0, which alone does it; a ``UserError`` there is raised on every rank."""
        ((result, error),) = self.gather([_attempt(work)] if self.first else [])
        if error is not None:
            raise error
        return cast(T, result)

    def together(self, work: Callable[[], T]) -> T:
        """What ``work`` returns here; a ``UserError`` of one rank is raised on all of them.

        One rank of each machine goes before the others, so that data is downloaded and prepared once.
        """
        result = None
        for my_turn in (self.local == 0, self.local != 0):
            error = None
            if my_turn:
                result, error = _attempt(work)
            for found in self.gather([error]):
                if found is not None:
                    raise found
        return cast(T, result)

    @cached_property
    def tells(self) -> bool:
        """Whether this rank prints the error that it has met: the first to ask does, since one often ends them all."""
        if self.store is None:
            return True
        try:
            return self.store.add("told", 1) == 1
        except RuntimeError:  # the store has gone with its machine: better told twice than not at all
            return True


ALONE = Ranks()  # a process on its own
_here = ALONE


def current() -> Ranks:
    """This process's place: alone, except within ``joined`` under torchrun."""
    return _here


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Within, this process is one of those that torchrun started, if it did; all but the first print nothing.

    Raises ``RankLost`` where they do not find each other.
    """
    global _here
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield _here
        return
    with _talking():
        store, rank, world = meet(PATIENCE)
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # gradients stay where they are
        dist.init_process_group(backends, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    _here = Ranks(rank, world, int(os.environ["LOCAL_RANK"]), store)
    try:
        with contextlib.ExitStack() as silence:
            if not _here.first:
                silence.enter_context(contextlib.redirect_stdout(silence.enter_context(open(os.devnull, "w"))))
            yield _here
    finally:
        _here = ALONE
        dist.destroy_process_group()


def _attempt(work: Callable[[], T]) -> tuple[T | None, UserError | None]:
    """What ``work`` returns, or its ``UserError``. Other errors end this process, and with it the other ranks."""
    try:
        return work(), None
    except UserError as error:
        return None, error


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """torch's errors of communication as ``RankLost``."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            f"another rank is gone or does not answer ({without_place(error)}); the same command goes on from the last "
            "checkpoint"
        ) from error
