"""``metarun check``: compare each method's meta-gradient with its definition, on this machine, in float64.

The definitions are in ``definitions.py``. The test suite compares more settings with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm
from metarun.algorithms.maml import MAML, Derivative
from metarun.algorithms.random import Random
from metarun.algorithms.reptile import Reptile
from metarun.core import tree
from metarun.core.meta import Meta
from metarun.engine.kernels.build import NotBuilt, library
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import TRACE_PAYS, Compile, Engine, Vectorize, each
from metarun.verify.definitions import REFERENCES, query_objective
from metarun.verify.problems import Case, cases, finite_difference, first_meta, relative_error, small, suits

LIMIT = 1e-6  # largest allowed relative error in float64; the error of finite differences is about 1e-8


def unchecked(algorithms: dict[str, Algorithm]) -> dict[str, str]:
    """Find the methods that ``rows`` cannot check because they have no definition.

    Args:
        algorithms: option name -> method.

    Returns:
        Option name -> reason.
    """
    write = (
        "it has no definition: write its meta-gradient the long way and add it to REFERENCES in "
        "metarun/verify/definitions.py (CONTRIBUTING.md, Adding a part)"
    )
    return {
        name: "it has no meta-gradient" if isinstance(given, Random) else write
        for name, given in algorithms.items()
        if type(given) not in REFERENCES
    }


def reference(algorithm: Algorithm, case: Case) -> Meta:
    """Compute the method's meta-gradient by its definition, the mean over the case's tasks."""
    one, meta = REFERENCES[type(algorithm)], first_meta(algorithm, case).flat()
    per_task = [one(algorithm, case.problem, meta, task) for task in each(case.episodes)]
    mean = tree.combine(lambda *grads: torch.stack(grads).sum(0), *per_task)
    return Meta.from_flat(tree.scale(1 / len(per_task), mean))


def query_loss_after_adapting(algorithm: Algorithm, case: Case) -> Callable[[Meta], Tensor]:
    """Return MAML's objective, the mean over the case's tasks, as a function of the meta-parameters."""

    def fn(meta: Meta) -> Tensor:
        losses = []
        for task in each(case.episodes):
            losses.append(query_objective(algorithm, case.problem, meta.flat(), task, create_graph=False))
        return torch.stack(losses).mean()

    return fn


@dataclass(frozen=True)
class Row:
    """One line of ``metarun check``.

    Attributes:
        algo: the method's option name, with "recompute" behind it for that variant.
        network: the name of the case.
        path: the name of the engine, as in ``engines``.
        against: the independent computation.
        error: relative error, without unit.
    """

    algo: str
    network: str
    path: str
    against: str
    error: float

    @property
    def right(self) -> bool:
        """Whether the error is below ``LIMIT``."""
        return self.error < LIMIT


def engines(device: torch.device) -> dict[str, tuple[Engine, int]]:
    """List every way to run tasks on this machine.

    Args:
        device: where tasks run; the native kernels are for the CPU.

    Returns:
        Name -> (engine, expected calls). The number of calls decides whether the function is traced.
    """
    ways = {
        "loop": (Engine(Vectorize.loop, 1), 0),
        "vmap": (Engine(Vectorize.vmap), 0),
        "vmap by 2": (Engine(Vectorize.vmap, 2), 0),
        "vmap traced": (Engine(Vectorize.vmap, None, Compile.auto), TRACE_PAYS),
        "grouped": (Engine(Vectorize.grouped), 0),
    }
    if device.type == "cpu":
        try:
            kernels = library()
        except NotBuilt:
            return ways
        ways["native"] = Engine(Vectorize.grouped, 2, Compile.false, kernels), 0
        ways["native traced"] = Engine(Vectorize.grouped, None, Compile.auto, kernels), TRACE_PAYS
    return ways


def rows(algorithms: dict[str, Algorithm], device: torch.device) -> Iterator[Row]:
    """Check every method that has a definition, on every engine.

    Args:
        algorithms: option name -> method.
        device: where to compute.

    Yields:
        One row for each combination of method, case and engine, and one of finite differences where the method
        differentiates through its inner loop exactly.
    """
    for case in cases(device):
        for name, given in algorithms.items():
            if type(given) not in REFERENCES or not suits(given, case):
                continue
            algorithm = small(given)
            if isinstance(algorithm, Reptile):
                algorithm = dataclasses.replace(algorithm, carry_moments=False)
            variants = {name: algorithm}
            if isinstance(algorithm, MAML) and algorithm.hypergrad is Derivative.store:
                variants[f"{name} recompute"] = dataclasses.replace(algorithm, hypergrad=Derivative.recompute)
            for label, variant in variants.items():
                want = reference(variant, case)
                for path, (engine, calls) in engines(device).items():
                    if calls and case.name == "conv4 strided":
                        continue  # tracing takes seconds; the max-pooled network has the same layers and more
                    meta = first_meta(variant, case)
                    got, _ = MetaGradient(engine, variant, case.problem, calls)(meta, case.episodes)
                    yield Row(label, case.name, path, "plain autograd", relative_error(got, want))
                if isinstance(variant, MAML) and variant.hypergrad is not Derivative.first_order:
                    direction = tree.scale(1 / tree.norm(want), want)
                    slope = finite_difference(query_loss_after_adapting(variant, case), meta, direction)
                    error = abs(tree.dot(got, direction).item() - slope) / abs(slope)
                    yield Row(label, case.name, path, "finite differences", error)


def table(lines: list[Row]) -> str:
    """Format the rows as text."""
    head = f"{'algo':18}{'network':16}{'computed by':17}{'against':20}{'relative error':>16}"
    body = [
        f"{line.algo:18}{line.network:16}{line.path:17}{line.against:20}{line.error:16.1e}"
        f"  {'right' if line.right else 'WRONG'}"
        for line in lines
    ]
    return "\n".join([head, *body])
