"""Ranks: the processes that torchrun starts for one run. They share its tasks; rank 0 alone prints and writes."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from metarun.compat.torch_errors import without_place
from metarun.errors import RankLost, UserError

if TYPE_CHECKING:  # torch is imported where ranks talk: a process on its own may be done without it
    import torch.distributed as dist

    from metarun.core.tree import Tree

T = TypeVar("T")

# How long a rank waits for another that is alive and does not answer: longer than any work that one rank does alone,
# such as preparing data. A rank that has died is noticed at once.
PATIENCE = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """Rank and world size of this process. The default is one process, for which every method is a no-op.

    All ranks must call the methods that communicate (``mean``, ``total``, ``highest``, ``gather``, ``on_first``,
    ``together``) in the same order.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        local: number of this process on its machine, from 0, which is also the number of its GPU.
        store: torch's key-value store, which all ranks share; None for one process.

    Raises:
        RankLost: another rank is gone; the methods that communicate raise it.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    store: dist.Store | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the only rank that prints and that touches the run folder."""
        return self.rank == 0

    def share(self, indices: range) -> range:
        """Return this rank's part of a range.

        Parts are contiguous, in rank order, and their lengths differ by at most one. A part is empty where the range is
        shorter than the number of ranks.
        """
        n = len(indices)
        return indices[n * self.rank // self.world : n * (self.rank + 1) // self.world]

    def mean(self, grads: Tree, tasks: int, of: int) -> Tree:
        """Average gradients over the tasks of all ranks.

        Args:
            grads: the mean over this rank's tasks.
            tasks: the number of this rank's tasks.
            of: the number of tasks on all ranks.

        Returns:
            The mean over all tasks, with the same bits on every rank.
        """
        if self.world == 1:
            return grads
        from metarun.core import tree

        return self.total(tree.scale(tasks / of, grads))

    def total(self, values: Tree) -> Tree:
        """Add up the values of all ranks; the sums have the same bits on every rank."""
        if self.world == 1:
            return values
        import torch
        import torch.distributed as dist

        from metarun.core import tree

        flat = torch.cat([value.flatten() for value in tree.leaves(values)])  # one message, not one a parameter
        with _talking():
            dist.all_reduce(flat)
        parts = iter(flat.split([value.numel() for value in tree.leaves(values)]))
        return tree.combine(lambda value: next(parts).view_as(value), values)

    def highest(self, value: int) -> int:
        """Return the largest of the ranks' values. Uses the CPU, so that it waits for no GPU."""
        if self.world == 1:
            return value
        import torch
        import torch.distributed as dist

        values = torch.tensor([value])
        with _talking():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def gather(self, mine: list[T]) -> list[T]:
        """Return the items of all ranks, in rank order. Items are pickled; their tensors must be on the CPU."""
        if self.world == 1:
            return mine
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with _talking():
            dist.all_gather_object(found, mine)
        return [item for items in found for item in items]

    def on_first(self, work: Callable[[], T]) -> T:
        """Call ``work`` on rank 0 alone and return its result on every rank.

        Raises:
            UserError: on every rank, where ``work`` raised it.
        """
        ((result, error),) = self.gather([_attempt(work)] if self.first else [])
        if error is not None:
            raise error
        return cast(T, result)

    def together(self, work: Callable[[], T]) -> T:
        """Call ``work`` on every rank and return this rank's result.

        One rank of each machine runs before the others, so that data is downloaded and prepared once.

        Raises:
            UserError: on every rank, where ``work`` raised it on one.
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
        """True on exactly one rank, the first that reads it: one failure reaches all ranks and is reported once."""
        if self.store is None:
            return True
        try:
            return self.store.add("told", 1) == 1
        except RuntimeError:  # the store is gone with its machine: two reports are better than none
            return True


ALONE = Ranks()  # one process


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Connect this process with the other ranks within a ``with`` block, where torchrun started it.

    Within it, every rank but the first prints nothing.

    Yields:
        This process's ranks; ``ALONE`` without torchrun.

    Raises:
        RankLost: the ranks do not find each other.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    from metarun.compat.torch_ranks import meet

    with _talking():
        store, rank, world = meet(PATIENCE)
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # gradients stay where they are
        dist.init_process_group(backends, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    here = Ranks(rank, world, int(os.environ["LOCAL_RANK"]), store)
    try:
        with contextlib.ExitStack() as silence:
            if not here.first:
                silence.enter_context(contextlib.redirect_stdout(silence.enter_context(open(os.devnull, "w"))))
            yield here
    finally:
        dist.destroy_process_group()


def _attempt(work: Callable[[], T]) -> tuple[T | None, UserError | None]:
    """Return (result, None), or (None, its ``UserError``). Other errors end this process, and so the other ranks."""
    try:
        return work(), None
    except UserError as error:
        return None, error


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Raise torch's communication errors as ``RankLost``."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            f"another rank is gone or does not answer ({without_place(error)}); the same command resumes from the last "
            "checkpoint"
        ) from error
