"""Are the meta-gradients right? Each method against an independent reference, on this machine, in float64.

The references are in ``definitions.py``. The test suite holds more settings against them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm
from metarun.algorithms.imaml import IMAML
from metarun.algorithms.maml import MAML, Derivative
from metarun.algorithms.mann import MANN
from metarun.algorithms.random import Random
from metarun.algorithms.reptile import Reptile
from metarun.core import tree
from metarun.core.episode import Episode
from metarun.core.objective import Objective, classification
from metarun.core.tree import Params
from metarun.engine.kernels.build import NotBuilt, library
from metarun.engine.over_tasks import CAPTURE_PAYS, Compile, Engine, MetaGradient, Vectorize
from metarun.errors import ConfigError
from metarun.models.base import Init, functional, initialise
from metarun.models.conv4 import Conv4, Downsample, Features
from metarun.models.mann import MemoryAugmented
from metarun.models.mlp import MLP, Activation
from metarun.verify.definitions import REFERENCES, query_objective

LIMIT = 1e-6  # relative error allowed in float64; finite differences themselves are good to about 1e-8


@dataclass(frozen=True)
class Problem:
    """A tiny network with its first parameters, and a few tasks for it, in float64."""

    name: str
    objective: Objective
    meta: Params
    episodes: Episode


def problems(device: torch.device, tasks: int = 3, way: int = 3, shot: int = 2, query: int = 2) -> Iterator[Problem]:
    """An MLP, Conv4 with batch norm both strided (with a learned shift only) and max-pooled, and a MANN.

    The strided one's three filters are less than a vector of the native kernels; the max-pooled one's eight fill it.
    """
    conv: dict[str, Any] = {"norm_eps": 1e-3, "init": Init.xavier, "head_init": Init.xavier}
    strided: dict[str, Any] = {
        "filters": 3,
        "downsample": Downsample.stride,
        "features": Features.mean,
        "norm_gamma": False,
    }
    pooled: dict[str, Any] = {
        "filters": 8,
        "downsample": Downsample.max_pool,
        "features": Features.flatten,
        "norm_gamma": True,
    }
    networks = {
        "mlp": MLP(hidden=[6, 5], activation=Activation.tanh, norm=False, init=Init.xavier),
        "conv4 strided": Conv4(**conv, **strided),
        "conv4 max-pool": Conv4(**conv, **pooled),
        "mann": MemoryAugmented(units=5, heads=2, width=3, init=Init.xavier),
    }
    for name, model in networks.items():
        shape = (1, 16, 16) if isinstance(model, Conv4) else (1, 3, 3)
        module = initialise(model, shape, way, seed=0).to(device, torch.float64)
        generator = torch.Generator().manual_seed(1)
        scaled = {n: p.detach() * 1 for n, p in module.named_parameters()}
        for parameter in scaled.values():  # away from the special values 0 and 1 that layers start with
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(device)
        labels = torch.arange(way)
        x = torch.randn(tasks, way * (shot + query), *shape, generator=generator, dtype=torch.float64).to(device)
        episodes = Episode(
            support_x=x[:, : way * shot],
            support_y=labels.repeat_interleave(shot).expand(tasks, -1).to(device),
            query_x=x[:, way * shot :],
            query_y=labels.repeat_interleave(query).expand(tasks, -1).to(device),
            key=torch.arange(11, 11 + tasks, device=device),
        )
        yield Problem(name, classification(functional(module), way), scaled, episodes)


def suits(algorithm: Algorithm, problem: Problem) -> bool:
    """Whether a method and a problem's network were made for each other."""
    return isinstance(algorithm, MANN) == (problem.name == "mann")


def small(algorithm: Any) -> Any:
    """The same method with settings that suit a tiny problem: those that it has, and where it uses them."""
    if isinstance(algorithm, MANN):  # few slots, so that some are used again
        return dataclasses.replace(algorithm, slots=5)
    wanted: dict[str, Any] = {"inner_lr": 0.2, "inner_steps": 3, "inner_batch": 4}
    if isinstance(algorithm, IMAML):  # an implicit equation that conjugate gradient and the reference both solve
        wanted |= {"inner_lr": 0.001, "proximal": 400.0, "cg_steps": 12}
    used = {field.name for field in dataclasses.fields(algorithm) if getattr(algorithm, field.name)}
    try:
        return dataclasses.replace(algorithm, **{name: value for name, value in wanted.items() if name in used})
    except ConfigError:  # a method may allow other values only; its own are allowed
        return algorithm


def unchecked(algorithms: dict[str, Algorithm]) -> dict[str, str]:
    """Option name -> why ``rows`` has nothing to say of this method, for those that have no reference."""
    write = (
        "it has no reference: write its meta-gradient the long way and add it to REFERENCES in "
        "metarun/verify/definitions.py (CONTRIBUTING.md, Adding a part)"
    )
    return {
        name: "it has no meta-gradient" if isinstance(given, Random) else write
        for name, given in algorithms.items()
        if type(given) not in REFERENCES
    }


def first_meta(algorithm: Algorithm, problem: Problem) -> Params:
    """The method's meta-parameters for a problem, step sizes moved off the one value that they start with."""
    meta = algorithm.init(problem.meta)
    generator = torch.Generator().manual_seed(2)

    def varied(name: str, value: Tensor) -> Tensor:
        if not name.startswith("inner.lr."):
            return value
        drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64)  # the same numbers for every dtype
        return value * (0.5 + drawn).to(value)

    return {name: varied(name, value) for name, value in meta.items()}


def reference(algorithm: Algorithm, problem: Problem) -> Params:
    """The mean over tasks of the method's reference meta-gradient."""
    one, meta = REFERENCES[type(algorithm)], first_meta(algorithm, problem)
    per_task = [one(algorithm, problem.objective, meta, Episode(*row)) for row in zip(*problem.episodes, strict=True)]
    return tree.scale(1 / len(per_task), tree.combine(lambda *grads: torch.stack(grads).sum(0), *per_task))


def finite_difference(fn: Callable[[Params], Tensor], at: Params, direction: Params, step: float = 1e-7) -> float:
    """Central difference of a scalar function along a direction.

    The step is small because inner gradients jump where a ReLU changes side, and the adapted parameters with them.
    """
    up, down = (fn(tree.add_scaled(at, sign * step, direction)).item() for sign in (1, -1))
    return (up - down) / (2 * step)


def query_loss_after_adapting(algorithm: Algorithm, problem: Problem) -> Callable[[Params], Tensor]:
    """The mean over tasks of what MAML minimises, as a function of the meta-parameters."""

    def fn(meta: Params) -> Tensor:
        losses = []
        for row in zip(*problem.episodes, strict=True):
            task = Episode(*row)
            losses.append(query_objective(algorithm, problem.objective, meta, task, create_graph=False))
        return torch.stack(losses).mean()

    return fn


def relative_error(got: Params, want: Params) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return (tree.norm(tree.subtract(want, got)) / tree.norm(want)).item()


@dataclass(frozen=True)
class Row:
    """One line of ``metarun check``."""

    algo: str
    network: str
    path: str
    against: str
    error: float

    @property
    def right(self) -> bool:
        return self.error < LIMIT


def engines(device: torch.device) -> dict[str, tuple[Engine, int]]:
    """Every way of running tasks on this machine by name, and the number of calls that makes it record or not."""
    ways = {
        "loop": (Engine(Vectorize.loop, 1), 0),
        "vmap": (Engine(Vectorize.vmap), 0),
        "vmap by 2": (Engine(Vectorize.vmap, 2), 0),
        "vmap recorded": (Engine(Vectorize.vmap, None, Compile.auto), CAPTURE_PAYS),
        "grouped": (Engine(Vectorize.grouped), 0),
    }
    if device.type == "cpu":
        try:
            kernels = library()
        except NotBuilt:
            return ways
        ways["native"] = Engine(Vectorize.grouped, 2, Compile.false, kernels), 0
        ways["native recorded"] = Engine(Vectorize.grouped, None, Compile.auto, kernels), CAPTURE_PAYS
    return ways


def rows(algorithms: dict[str, Algorithm], device: torch.device) -> Iterator[Row]:
    """Check every given method (option name -> object) that has a reference, on every way of computing it."""
    for problem in problems(device):
        for name, given in algorithms.items():
            if type(given) not in REFERENCES or not suits(given, problem):
                continue
            algorithm = small(given)
            if isinstance(algorithm, Reptile):
                algorithm = dataclasses.replace(algorithm, carry_moments=False)
            variants = {name: algorithm}
            if isinstance(algorithm, MAML) and algorithm.hypergrad is Derivative.store:
                variants[f"{name} recompute"] = dataclasses.replace(algorithm, hypergrad=Derivative.recompute)
            for label, variant in variants.items():
                want = reference(variant, problem)
                for path, (engine, calls) in engines(device).items():
                    if calls and problem.name == "conv4 strided":
                        continue  # recording takes seconds, and the max-pooled network has the same layers and more
                    meta = first_meta(variant, problem)
                    got, _ = MetaGradient(engine, variant, problem.objective, calls)(meta, problem.episodes)
                    yield Row(label, problem.name, path, "plain autograd", relative_error(got, want))
                if isinstance(variant, MAML) and variant.hypergrad is not Derivative.first_order:
                    direction = tree.scale(1 / tree.norm(want), want)
                    slope = finite_difference(query_loss_after_adapting(variant, problem), meta, direction)
                    error = abs(tree.dot(got, direction).item() - slope) / abs(slope)
                    yield Row(label, problem.name, path, "finite differences", error)


def table(lines: list[Row]) -> str:
    """The rows as text."""
    head = f"{'algo':18}{'network':16}{'computed by':17}{'against':20}{'relative error':>16}"
    body = [
        f"{line.algo:18}{line.network:16}{line.path:17}{line.against:20}{line.error:16.1e}"
        f"  {'right' if line.right else 'WRONG'}"
        for line in lines
    ]
    return "\n".join([head, *body])
