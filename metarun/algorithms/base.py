"""What a meta-learning method has to say: how a task adapts, and the meta-gradient of one task."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor

from metarun.core.episode import Episode, View
from metarun.core.hypergrad import Metrics
from metarun.core.inner import Carry, Inner, descend, minibatches
from metarun.core.objective import Objective, Reduction
from metarun.core.outer import OuterOptimizer, Schedule
from metarun.core.tree import Params
from metarun.errors import require, require_count

MOST_INNER_STEPS = 100_000  # each is a round of Python
STEP_SIZES = "inner.lr."  # what the meta-parameters that are step sizes are called, before their parameter's name


@dataclass(kw_only=True, slots=True)
class Algorithm(abc.ABC):
    """A method and its settings. Subclasses implement ``inner`` and ``meta_grad`` for a single task.

    The training loop, evaluation, checkpoints and reports know no more of a method than this class.
    """

    fewest_inner_steps: ClassVar[int] = 1  # with which meta-training means something
    view: ClassVar[View] = View.tasks  # of the data while meta-training
    # fields that no evaluation reads; a subclass names those that it adds
    of_training: ClassVar[tuple[str, ...]] = (
        *("inner_steps", "outer_optimizer", "outer_lr", "outer_eps", "outer_schedule", "clip_value", "clip_norm"),
    )
    inner_steps: int  # while meta-training
    eval_inner_steps: int  # while validating and testing; results are reported for 0..this many
    outer_optimizer: OuterOptimizer
    outer_lr: float
    outer_eps: float  # outer Adam's epsilon
    outer_schedule: Schedule
    clip_value: float | None  # bound on each entry of the meta-gradient; null: none
    clip_norm: float | None  # bound on the meta-gradient's global norm; null: none

    def __post_init__(self) -> None:
        require_count("inner_steps", self.inner_steps, self.fewest_inner_steps, MOST_INNER_STEPS)
        require_count("eval_inner_steps", self.eval_inner_steps, 1, MOST_INNER_STEPS)
        require(self.outer_lr > 0, "outer_lr", self.outer_lr, "> 0")
        require(self.outer_eps > 0, "outer_eps", self.outer_eps, "> 0")
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "> 0, or null for none")

    fixed: ClassVar[tuple[str, ...]] = ()  # keys of the configuration that the method gives a value of its own

    @classmethod
    def training_only(cls) -> set[str]:
        """The fields that only training reads: ``of_training`` of the class and of those above it."""
        return {name for above in cls.__mro__ for name in vars(above).get("of_training", ())}

    @classmethod
    def tunes(cls) -> bool:
        """Whether validation chooses among ``candidates``, also when a trained run is tested."""
        return cls.candidates is not Algorithm.candidates

    def training_shots(self, shot: int, query: int) -> tuple[int, int]:
        """(support, query) examples per class that a meta-training task needs."""
        return shot, query

    def meta_iterations(self, steps: int) -> int:
        """How many of the meta-iterations that were asked for the method has a use for; at least 1."""
        return steps

    def at(self, progress: float) -> Algorithm:
        """What the method is at this share (0..1) of meta-training, for methods that change while they train.

        Every change is compiled anew (``device.compile``); numbers that change all the time are ``annealed``.
        """
        return self

    def annealed(self, progress: float) -> dict[str, float]:
        """Numbers that ``meta_grad`` finds among the meta-parameters (under ``inner.``) and that nothing learns."""
        return {}

    def init(self, params: Params) -> Params:
        """The first meta-parameters, from a freshly initialised model's parameters.

        Entries whose name starts with ``inner.`` belong to the method, the others to the model.
        """
        return params

    def candidates(self, meta: Params) -> list[Params]:
        """Meta-parameters among which validation chooses, for methods that tune a setting on it."""
        return [meta]

    @abc.abstractmethod
    def inner(self, objective: Objective, x: Tensor, y: Tensor, key: Tensor, *, training: bool) -> Inner:
        """The inner loop of one task with support set x [N*K, ...], y [N*K] and random key (int64 scalar)."""

    @abc.abstractmethod
    def meta_grad(self, objective: Objective, meta: Params, task: Episode) -> tuple[Params, Metrics]:
        """The meta-gradient of one task (an Episode without its axis T), like ``meta``, and scalar metrics."""

    def adapt(
        self, objective: Objective, meta: Params, x: Tensor, y: Tensor, key: Tensor, steps: int
    ) -> Iterator[Params]:
        """A task's full model parameters after 0, 1, ..., ``steps`` inner steps, as evaluation runs them."""
        fixed = model_params(meta)
        for carry in descend(self.inner(objective, x, y, key, training=False), meta, steps):
            yield {**fixed, **carry.params}

    def trial(
        self,
        objective: Objective,
        meta: Params,
        task: Episode,
        steps: range,
        predict: Callable[[Params], list[Tensor]],
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """(outputs under each norm, targets) by which a task is judged after each of these numbers of inner steps.

        predict: adapted parameters -> outputs [N*Q, outputs] for the query set, under each norm.
        """
        path = self.adapt(objective, meta, task.support_x, task.support_y, task.key, steps.stop - 1)
        for params in itertools.islice(path, steps.start, None):
            yield predict(params), task.query_y

    def stamp(self) -> dict[str, str]:
        """Facts for the protocol of every number, beside those that all methods have."""
        return {}


@dataclass(kw_only=True, slots=True)
class GradientBased(Algorithm):
    """A method whose inner loop follows gradients of the support loss."""

    inner_lr: float
    inner_loss: Reduction

    def __post_init__(self) -> None:
        Algorithm.__post_init__(self)
        require(self.inner_lr > 0, "inner_lr", self.inner_lr, "> 0")


@dataclass(kw_only=True, slots=True)
class GradientDescent(GradientBased):
    """theta_k+1 = theta_k - step size * grad L_support(theta_k), on all parameters or some."""

    frozen: list[str]  # what the inner loop leaves alone: shell patterns of names; one behind a ! takes names out again
    inner_batch: int | None  # support examples that an inner step sees, other ones each time; null: all

    def __post_init__(self) -> None:
        GradientBased.__post_init__(self)
        require(self.inner_batch is None or self.inner_batch >= 1, "inner_batch", self.inner_batch, ">= 1, or null")

    def init(self, params: Params) -> Params:
        for pattern in self.frozen:
            known = any(fnmatchcase(name, pattern.removeprefix("!")) for name in params)
            require(known, "algo.frozen", pattern, f"a pattern of parameter names: {', '.join(params)}")
        require(any(map(self.moves, params)), "algo.frozen", self.frozen, "such that a parameter is left to adapt")
        return params

    def moves(self, name: str) -> bool:
        """Whether the inner loop moves the model's parameter of this name: the last pattern that fits decides."""
        fits = [pattern for pattern in self.frozen if fnmatchcase(name, pattern.removeprefix("!"))]
        return not fits or fits[-1].startswith("!")

    def start(self, objective: Objective, meta: Params) -> Params:
        """The model's parameters from which a task starts."""
        return model_params(meta)

    def step_size(self, meta: Params, name: str, k: int) -> Tensor | float:
        """The step size of parameter ``name`` in inner step k; broadcasts to the parameter."""
        return self.inner_lr

    def slope(self, objective: Objective, params: Params, fixed: Params, x: Tensor, y: Tensor) -> Params:
        """The support loss's gradient in ``params``, the other parameters being ``fixed``."""
        return torch.func.grad(lambda p: objective.inner_loss({**fixed, **p}, x, y, self.inner_loss))(params)

    def inner(self, objective: Objective, x: Tensor, y: Tensor, key: Tensor, *, training: bool) -> Inner:
        steps = self.inner_steps if training else self.eval_inner_steps
        order = None if self.inner_batch is None else minibatches(key, len(x), min(self.inner_batch, len(x)), steps)

        def start(meta: Params) -> Carry:
            return Carry({n: p for n, p in self.start(objective, meta).items() if self.moves(n)}, {})

        def step(meta: Params, carry: Carry, k: int) -> Carry:
            seen = (x, y) if order is None else (x[order[k]], y[order[k]])
            grads = self.slope(objective, carry.params, self.start(objective, meta), *seen)
            return Carry({n: p - self.step_size(meta, n, k) * grads[n] for n, p in carry.params.items()}, {})

        return Inner(start, step)


def model_params(meta: Params) -> Params:
    """The entries of the meta-parameters that are the model's."""
    return {name: value for name, value in meta.items() if not name.startswith("inner.")}


def step_sizes(meta: Params) -> Params:
    """The meta-learned step sizes by the name of their parameter; none for most methods."""
    return {name.removeprefix(STEP_SIZES): value for name, value in meta.items() if name.startswith(STEP_SIZES)}
