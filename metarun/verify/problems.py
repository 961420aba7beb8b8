"""Tiny networks with a few tasks, in float64, on which two computations of a meta-gradient are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm
from metarun.algorithms.imaml import IMAML
from metarun.algorithms.mann import MANN
from metarun.core import tree
from metarun.core.episode import Episode
from metarun.core.meta import Meta
from metarun.core.objective import Supervised, classification
from metarun.core.tree import Tree
from metarun.errors import ConfigError
from metarun.models.base import Init, functional, initialise
from metarun.models.conv4 import Conv4, Downsample, Features
from metarun.models.mann import MemoryAugmented
from metarun.models.mlp import MLP, Activation


@dataclass(frozen=True)
class Case:
    """A tiny network with its first parameters, and a few tasks for it, in float64.

    Attributes:
        name: name of the network.
        problem: the network with its losses.
        meta: the network's parameters alone.
        episodes: T tasks.
    """

    name: str
    problem: Supervised
    meta: Meta
    episodes: Episode


def cases(device: torch.device, tasks: int = 3, way: int = 3, shot: int = 2, query: int = 2) -> Iterator[Case]:
    """Make the cases: an MLP, two Conv4 with batch norm, and a MANN.

    The strided Conv4 has batch norm with a learned shift only, and three filters, fewer than a vector of the native
    kernels holds. The max-pooled Conv4 has eight filters, which fill whole vectors.

    Args:
        device: where the parameters and the tasks are.
        tasks: T.
        way: N.
        shot: K.
        query: Q.
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
        yield Case(name, classification(functional(module), way), Meta.of(scaled), episodes)


def suits(algorithm: Algorithm, case: Case) -> bool:
    """Whether a method can be checked on a case: MANN on its own network, every other method on the other ones."""
    return isinstance(algorithm, MANN) == (case.name == "mann")


def small(algorithm: Any) -> Any:
    """Return a method with settings that suit a tiny problem.

    Only settings that the method has and uses are changed, and none where it refuses these values.
    """
    if isinstance(algorithm, MANN):  # few slots, so that some are used again
        return dataclasses.replace(algorithm, slots=5)
    wanted: dict[str, Any] = {"inner_lr": 0.2, "inner_steps": 3, "inner_batch": 4}
    if isinstance(algorithm, IMAML):  # so that conjugate gradient and the definition both solve the implicit equation
        wanted |= {"inner_lr": 0.001, "proximal": 400.0, "cg_steps": 12}
    used = {field.name for field in dataclasses.fields(algorithm) if getattr(algorithm, field.name)}
    try:
        return dataclasses.replace(algorithm, **{name: value for name, value in wanted.items() if name in used})
    except ConfigError:  # the method allows other values only; keep its own
        return algorithm


def first_meta(algorithm: Algorithm, case: Case) -> Meta:
    """Return a method's meta-parameters for a case, with learned step sizes varied by random factors 0.5 to 1.5."""
    meta = algorithm.init(case.meta.model)
    generator = torch.Generator().manual_seed(2)

    def varied(value: Tensor) -> Tensor:
        drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64)  # the same numbers for every dtype
        return value * (0.5 + drawn).to(value)

    return meta._replace(step_sizes=tree.combine(varied, meta.step_sizes))


def finite_difference(fn: Callable[[Tree], Tensor], at: Tree, direction: Tree, step: float = 1e-7) -> float:
    """Compute the central difference of a scalar function.

    Args:
        fn: a function of a tree of tensors.
        at: the point.
        direction: a tree of the same structure.
        step: factor of ``direction`` to each side. It is small because inner gradients, and so the adapted parameters,
            jump where the input of a ReLU changes its sign.

    Returns:
        The derivative of ``fn`` along the direction.
    """
    up, down = (fn(tree.add_scaled(at, sign * step, direction)).item() for sign in (1, -1))
    return (up - down) / (2 * step)


def relative_error(got: Tree, want: Tree) -> float:
    """Return the norm of ``got - want`` divided by the norm of ``want``."""
    return (tree.norm(tree.subtract(want, got)) / tree.norm(want)).item()
