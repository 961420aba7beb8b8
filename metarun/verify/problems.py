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
from metarun.algorithms.maml import MAML
from metarun.algorithms.mamlpp import MAMLpp
from metarun.algorithms.mann import MANN
from metarun.core import tree
from metarun.core.acting import Acting, ActingTask, Estimator, Experience
from metarun.core.episode import Episode
from metarun.core.head import Head
from metarun.core.meta import Meta
from metarun.core.objective import classification
from metarun.core.problem import Reduction
from metarun.core.tree import Tree
from metarun.datasets.navigation import Plane
from metarun.errors import ConfigError
from metarun.models.base import Init, functional, initialise
from metarun.models.conv4 import Conv4, Downsample, Features
from metarun.models.gaussian_mlp import GaussianMLP
from metarun.models.mann import MemoryAugmented
from metarun.models.mlp import MLP, Activation


@dataclass(frozen=True)
class Case:
    """A tiny network with its first parameters, and a few tasks for it, in float64.

    Attributes:
        name: name of the network.
        problem: the network with its losses (Supervised or Acting).
        meta: the network's parameters alone.
        episodes: T tasks (an Episode or an ActingTask).
    """

    name: str
    problem: Any
    meta: Meta
    episodes: Any


def cases(device: torch.device, tasks: int = 3, way: int = 3, shot: int = 2, query: int = 2) -> Iterator[Case]:
    """Make the cases: an MLP, two Conv4 with batch norm, a MANN, and a policy on given experience.

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
        "mlp": MLP(
            hidden=[6, 5], activation=Activation.tanh, norm=False, norm_gamma=True, norm_eps=1e-5, init=Init.xavier
        ),
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
    yield policy_case(device, tasks)


def policy_case(device: torch.device, tasks: int, trajectories: int = 4, steps: int = 5) -> Case:
    """Make a tanh policy and random experience of ``steps`` inner steps, with episodes that end early.

    The experience is given; nothing acts in the environment.
    """
    world = Plane(horizon=5)
    model = GaussianMLP(hidden=[5, 4], activation=Activation.tanh, init=Init.xavier, std=0.7)
    module = initialise(model, (world.observations,), 2 * world.actions, seed=0).to(device, torch.float64)
    generator = torch.Generator().manual_seed(4)
    shape = (tasks, trajectories, world.horizon)

    def drawn(*last: int) -> Tensor:
        return torch.randn(*shape, *last, generator=generator, dtype=torch.float64).to(device)

    def experience() -> Experience:
        ends = torch.randint(1, world.horizon + 1, shape[:2], generator=generator)
        valid = (torch.arange(world.horizon) < ends[..., None]).to(device, torch.float64)
        unread = torch.zeros(tasks, dtype=torch.float64, device=device)
        return Experience(
            observation=drawn(world.observations) * valid[..., None],
            action=drawn(world.actions) * valid[..., None],
            outputs=0.3 * drawn(2 * world.actions) * valid[..., None],
            reward=drawn() * valid,
            advantage=drawn() * valid,
            valid=valid,
            explained=unread,
            gained=unread,
        )

    problem = Acting(environment=world, forward=functional(module), discount=0.9, gae=1.0, estimator=Estimator.official)
    keys = torch.zeros(tasks, 1, dtype=torch.int64, device=device)
    given = ActingTask(drawn()[:, 0, :1], keys, keys, tuple(experience() for _ in range(steps + 1)))
    return Case("policy", problem, Meta.of({n: p.detach() * 1 for n, p in module.named_parameters()}), given)


def suits(algorithm: Algorithm, case: Case) -> bool:
    """Whether a method can be checked on a case.

    MANN is checked on its own network, MAML and its variants without losses on the way on a policy, too, and every
    other method on the other networks.
    """
    if case.name == "policy":
        if not isinstance(algorithm, MAML) or isinstance(algorithm, MAMLpp):
            return False
        if algorithm.head is not Head.learned:
            return False
        return algorithm.inner_loss is Reduction.mean and algorithm.inner_batch is None
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
    """Return a method's meta-parameters for a case; what it adds to the model's is varied by factors 0.5 to 1.5."""
    meta = algorithm.init(case.meta.model)
    generator = torch.Generator().manual_seed(2)

    def varied(value: Tensor) -> Tensor:
        drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64)  # the same numbers for every dtype
        return value * (0.5 + drawn).to(value)

    return meta._replace(step_sizes=tree.combine(varied, meta.step_sizes), later=tree.combine(varied, meta.later))


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
