"""Tasks that are made by acting: their data come from the parameters that each task has after k inner steps."""

from __future__ import annotations

from functools import partial
from typing import Any

from metarun.algorithms.base import Algorithm
from metarun.core import tree
from metarun.core.inner import Carry
from metarun.core.meta import Meta
from metarun.core.problem import Problem
from metarun.engine.over_tasks import Engine, OverTasks, concatenate, count


def collected(
    engine: Engine, algorithm: Algorithm, problem: Problem, meta: Meta, tasks: Any, steps: int, *, training: bool
) -> Any:
    """The tasks with their data of inner steps 0..``steps`` - 1 and of the query set; the same tasks for most problems.

    Step k's data are made with the parameters after k steps on the data before. training: as meta-training adapts.
    """
    if not problem.collects:
        return tasks

    def begin(meta: Meta, task: Any) -> Carry:
        return algorithm.inner(problem, task, training=training).start(meta)

    def advance(meta: Meta, both: tuple[Any, Carry], k: int) -> Carry:
        task, carry = both
        return algorithm.inner(problem, task, training=training).step(meta, carry, k)

    total = count(tasks)
    carry = concatenate(list(OverTasks(engine, begin)(meta, tasks)))
    model = tree.combine(lambda p: p.expand(total, *p.shape), meta.model)
    for k in range(steps + 1):
        tasks = problem.collect({**model, **carry.params}, tasks, k)
        if k < steps:
            carry = concatenate(list(OverTasks(engine, partial(advance, k=k))(meta, (tasks, carry))))
    return tasks
