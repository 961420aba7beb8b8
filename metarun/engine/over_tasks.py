"""Run a function for one task on T tasks: the only file that adds the task axis."""

from __future__ import annotations

import enum
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import vmap

from metarun.compat import torch_pytree as pytree
from metarun.engine.kernels.build import Library, NotBuilt, library
from metarun.engine.kernels.layout import PlainLayout
from metarun.engine.kernels.mode import Grouped, serves
from metarun.engine.trace import Replay, traced

TaskFn = Callable[[Any, Any], Any]  # (what all tasks share, one task) -> tensors; each a pytree
Reduce = Callable[[Any, int], Any]
TRACE_PAYS = 30  # calls after which tracing a function has earned back the time it took (benchmarks/NOTES.md)
COMPILE_PAYS = 10_000  # the same for compiling a trace
COMPILED_OPERATIONS = 5_000  # a longer trace takes the compiler more than ten minutes
# Tracing takes about a second for each inner step: longer loops are not traced unless asked for.
TRACED_STEPS = 25
CPU_NUMBERS = 2**19  # in the widest layer of the tasks that a CPU computes side by side, so that its cache holds them


class Vectorize(enum.Enum):
    """How the tasks of a meta-batch are run.

    With ``auto``, networks with recurrent layers use ``loop``, because torch cannot vmap these layers. Without native
    kernels, convolutions of stride 1 on a CPU use ``loop`` too: side by side, they read many times over memory that is
    larger than any cache.

    Attributes:
        auto: ``grouped`` for convolutional networks on a CPU where the native kernels can be compiled, ``loop`` in the
            two cases above, ``vmap`` otherwise.
        vmap: side by side, by torch's batching rules.
        grouped: side by side, with metarun's task-batched convolutions and batch norm instead of torch's
            (``kernels/``).
        loop: one task after another.
    """

    auto = "auto"
    vmap = "vmap"
    grouped = "grouped"
    loop = "loop"


class Compile(enum.Enum):
    """What to compile: the native kernels, a trace of each function, machine code for the trace by TorchInductor.

    Attributes:
        auto: the kernels (a few seconds, once per machine); a trace, where the function is called often enough to save
            more time than tracing takes and the inner loop is not too long; machine code, for long runs that do not use
            the kernels and traces that are not too long.
        true: everything for meta-steps, even when there are few of them.
        false: nothing.
    """

    auto = "auto"
    true = "true"
    false = "false"


@dataclass(frozen=True)
class Engine:
    """The chosen way to run tasks.

    Attributes:
        how: any member but ``auto``.
        chunk: tasks in memory at once; None: all.
        compile: what may be compiled.
        native: the native kernels; None: torch's operations.
    """

    how: Vectorize
    chunk: int | None = None
    compile: Compile = Compile.false
    native: Library | None = None

    @staticmethod
    def choose(
        how: Vectorize,
        chunk: int | None,
        compile: Compile,
        device: torch.device,
        module: nn.Module,
        examples: int,
        width: int,
        run: Callable[[], object],
    ) -> Engine:
        """Choose an engine for a network, replacing each ``auto`` by a decision.

        Args:
            how: the setting ``device.vectorize``.
            chunk: the setting ``device.chunk``; None: auto.
            compile: the setting ``device.compile``.
            device: where the network computes.
            module: the network.
            examples: inputs of one task.
            width: numbers of one input.
            run: runs the network once. It shows whether the network uses an operation that the kernels replace.
        """
        convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        on_cpu = device.type == "cpu"
        if how is Vectorize.auto and any(isinstance(m, nn.RNNBase | nn.RNNCellBase) for m in module.modules()):
            how = Vectorize.loop
        native = None
        if on_cpu and convolutions and how in (Vectorize.auto, Vectorize.grouped) and compile is not Compile.false:
            try:
                native = library() if serves(library(), run) else None
            except NotBuilt as error:
                warnings.warn(f"device.compile: {error}; torch's own operations, several times slower", stacklevel=2)
        if how is Vectorize.auto:
            large = any(m.stride == (1, 1) and m.kernel_size >= (3, 3) for m in convolutions)
            alone = Vectorize.loop if on_cpu and large else Vectorize.vmap
            how = Vectorize.grouped if native else alone
        if how is Vectorize.loop:
            chunk = 1
        elif chunk is None and on_cpu:
            widest = max([width, *(m.out_features for m in module.modules() if isinstance(m, nn.Linear))])
            chunk = max(1, CPU_NUMBERS // (examples * widest))
        return Engine(how, chunk, compile, native)

    def describe(self) -> str:
        """Return a short description, printed in the first line of a run."""
        kernels = " with native kernels" if self.native else ""
        return f"{self.how.value}{kernels}, compile={self.compile.value}"

    def effort(self, calls: int) -> int:
        """Return what to prepare for a function that is called so often: 0 nothing, 1 a trace, 2 machine code too."""
        if self.compile is Compile.false or calls == 0 or (self.compile is Compile.auto and calls < TRACE_PAYS):
            return 0
        return 2 if not self.native and (self.compile is Compile.true or calls >= COMPILE_PAYS) else 1

    def parts(self, tasks: Any) -> Iterator[Any]:
        """Yield the tasks in chunks of nearly equal size, at most ``chunk`` tasks each."""
        total = count(tasks)
        chunks = math.ceil(total / min(self.chunk or total, total))
        yield from in_parts(tasks, math.ceil(total / chunks))


class OverTasks:
    """Apply a function for one task to any number of tasks, chunk by chunk.

    vmap is the outermost transform, and every derivative is taken inside ``task_fn``. Derivatives outside of a vmap
    can be silently wrong (hypergrad.py).

    Args:
        engine: how to run tasks.
        task_fn: (shared, one task) -> tensors; each of them a pytree.
        calls: expected calls per chunk over the whole run; tracing and compiling are chosen from it. 0 disables both.
        reduce: (results of a chunk with leaves [t, ...], number of tasks in all chunks) -> the value to yield for the
            chunk. It is traced and compiled together with ``task_fn``.
    """

    def __init__(
        self, engine: Engine, task_fn: TaskFn, calls: int = 0, reduce: Reduce = lambda results, tasks: results
    ):
        self.engine, self.task_fn, self.calls, self.reduce = engine, task_fn, calls, reduce
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, shared: Any, tasks: Any) -> Iterator[Any]:
        """Yield the result of each chunk, in order.

        Args:
            shared: input that all tasks have in common, such as meta-parameters.
            tasks: a pytree with leaves [T, ...].
        """
        total = count(tasks)
        for part in self.engine.parts(tasks):
            yield self._for(total, shared, part)(shared, part)

    def _for(self, total: int, shared: Any, part: Any) -> Callable[..., Any]:
        """Return the function for chunks of this shape."""
        shapes = (total, *(leaf.shape for leaf in pytree.tree_leaves(part)))
        if shapes not in self._compiled:
            self._compiled[shapes] = self._prepare(total, shared, part)
        return self._compiled[shapes]

    def _chunk(self, total: int, shared: Any, part: Any) -> Any:
        grouped = self.engine.how is Vectorize.grouped
        with PlainLayout(), Grouped(self.engine.native) if grouped else nullcontext():
            if self.engine.how is Vectorize.loop:
                rows = [self.task_fn(shared, one) for one in each(part)]
                results = pytree.tree_map(lambda *leaves: torch.stack(leaves), *rows)
            else:
                results = vmap(self.task_fn, in_dims=(None, 0))(shared, part)
            return self.reduce(results, total)

    def _prepare(self, total: int, shared: Any, part: Any) -> Callable[..., Any]:
        """Return the chunk function, traced and compiled where that saves time over the run.

        The decision depends on settings alone, never on measured time: a resumed run must decide as it did before.
        """
        plain = functools.partial(self._chunk, total)
        if self.engine.effort(self.calls) == 0:
            return plain
        return self._traced(plain, shared, part) or plain

    def _traced(self, plain: Callable[..., Any], shared: Any, part: Any) -> Callable[..., Any] | None:
        """Return the function as a trace, compiled where that saves time; None where it cannot be traced."""
        trace = traced(plain, shared, part)
        if trace is None:
            return None
        short = self.engine.compile is Compile.true or trace.operations <= COMPILED_OPERATIONS
        if self.engine.effort(self.calls) == 2 and short:
            trace.compile(shared, part)
        return Replay(plain, trace)


def count(tasks: Any) -> int:
    """Return T, the length of every leaf's first axis."""
    return len(next(iter(pytree.tree_iter(tasks))))  # of one leaf: it is asked several times in every meta-iteration


def each(tasks: Any) -> Iterator[Any]:
    """Yield one task after the other, without the axis T."""
    leaves, spec = pytree.tree_flatten(tasks)
    for row in zip(*leaves, strict=True):
        yield pytree.tree_unflatten(row, spec)


def in_parts(tasks: Any, size: int) -> Iterator[Any]:
    """Yield the tasks in parts of ``size``; the last part may be smaller."""
    total = count(tasks)
    if size >= total:
        yield tasks
        return
    for first in range(0, total, size):
        yield pytree.tree_map(lambda leaf, first=first: leaf[first : first + size], tasks)


def concatenate(chunks: list[Any]) -> Any:
    """Join the results of chunks along the axis T."""
    return chunks[0] if len(chunks) == 1 else pytree.tree_map(lambda *leaves: torch.cat(leaves), *chunks)
