"""What a meta-learning method has to say: how a task adapts, and the meta-gradient of one task."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.core.batch_norm import Norm
from metarun.core.episode import View
from metarun.core.inner import Carry, Inner, descend
from metarun.core.meta import Meta
from metarun.core.outer import OuterSettings
from metarun.core.problem import Metrics, Problem, Reduction, Support
from metarun.core.tree import Params
from metarun.errors import require, require_count

MOST_INNER_STEPS = 100_000  # each is a round of Python


@dataclass(kw_only=True, slots=True)
class Algorithm(OuterSettings, abc.ABC):
    """A method and its settings. Subclasses implement ``inner`` and ``meta_grad`` for a single task.

    The training loop, evaluation, checkpoints and reports know no more of a method than this class.
    """

    fewest_inner_steps: ClassVar[int] = 1  # smallest valid ``inner_steps``
    view: ClassVar[View] = View.tasks  # of the data while meta-training
    training_shot_keys: ClassVar[str] = "shot or query"  # what decides ``training_shots``
    # fields that no evaluation reads; a subclass names those that it adds
    of_training: ClassVar[tuple[str, ...]] = ("inner_steps", *(field.name for field in fields(OuterSettings)))
    inner_steps: int  # while meta-training
    eval_inner_steps: int  # while validating and testing; results are reported for 0..this many

    def __post_init__(self) -> None:
        OuterSettings.__post_init__(self)
        require_count("inner_steps", self.inner_steps, self.fewest_inner_steps, MOST_INNER_STEPS)
        require_count("eval_inner_steps", self.eval_inner_steps, 1, MOST_INNER_STEPS)

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
        """Meta-iterations to run, at least 1 and at most ``steps``."""
        return steps

    def at(self, progress: float) -> Algorithm:
        """What the method is at this share (0..1) of meta-training, for methods that change while they train.

        Every change is traced anew; numbers that change all the time are functions of ``meta_grad``'s ``progress``.
        """
        return self

    def init(self, params: Params) -> Meta:
        """The first meta-parameters, from a freshly initialised model's parameters."""
        return Meta.of(params)

    def candidates(self, meta: Meta) -> list[Meta]:
        """Meta-parameters among which validation chooses, for methods that tune a setting on it."""
        return [meta]

    @abc.abstractmethod
    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        """The inner loop of one task. training: as meta-training runs it, else as evaluation does."""

    @abc.abstractmethod
    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        """The meta-gradient of one task, like ``meta``, and scalar metrics.

        progress: share (0..1) of meta-training that is done, a float64 scalar.
        """

    def adapt(self, problem: Problem, meta: Meta, task: Any, steps: int) -> Iterator[Params]:
        """A task's full model parameters after 0, 1, ..., ``steps`` inner steps, as evaluation runs them."""
        for carry in descend(self.inner(problem, task, training=False), meta, steps):
            yield {**meta.model, **carry.params}

    def measure_adaptation(
        self, problem: Problem, meta: Meta, task: Any, steps: range, norms: list[Norm]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(metric, loss), each [len(norms)], by which a task is judged after each of these numbers of inner steps."""
        path = enumerate(self.adapt(problem, meta, task, steps.stop - 1))
        for k, params in itertools.islice(path, steps.start, None):
            yield problem.measure(params, task, k, norms)

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

    def batch(self, training: bool) -> int | None:
        """Support examples that an inner step sees, other ones each time; None: all."""
        return None

    def seen(self, problem: Problem, training: bool) -> Problem:
        """The problem, with its support sets as this method looks at them."""
        return problem.seen_by(Support(reduction=self.inner_loss, batch=self.batch(training)))


@dataclass(kw_only=True, slots=True)
class GradientDescent(GradientBased):
    """theta_k+1 = theta_k - step size * grad L_support(theta_k), on all parameters or some."""

    frozen: list[str]  # fnmatch patterns of parameters that the inner loop leaves alone; !pattern takes names out again
    inner_batch: int | None  # support examples that an inner step sees, other ones each time; null: all

    def __post_init__(self) -> None:
        GradientBased.__post_init__(self)
        require(self.inner_batch is None or self.inner_batch >= 1, "inner_batch", self.inner_batch, ">= 1, or null")

    def batch(self, training: bool) -> int | None:
        return self.inner_batch

    def init(self, params: Params) -> Meta:
        for pattern in self.frozen:
            known = any(fnmatchcase(name, pattern.removeprefix("!")) for name in params)
            require(known, "algo.frozen", pattern, f"a pattern of parameter names: {', '.join(params)}")
        require(any(map(self.moves, params)), "algo.frozen", self.frozen, "such that a parameter is left to adapt")
        return Meta.of(params)

    def moves(self, name: str) -> bool:
        """Whether the inner loop moves the model's parameter of this name: the last pattern that fits decides."""
        fits = [pattern for pattern in self.frozen if fnmatchcase(name, pattern.removeprefix("!"))]
        return not fits or fits[-1].startswith("!")

    def start(self, problem: Problem, meta: Meta) -> Params:
        """The model's parameters from which a task starts."""
        return meta.model

    def step_size(self, meta: Meta, name: str, k: int) -> Tensor | float:
        """The step size of parameter ``name`` in inner step k; broadcasts to the parameter."""
        return self.inner_lr

    def slope(self, loss: Callable[[Params], Tensor], params: Params, fixed: Params) -> Params:
        """The support loss's gradient in ``params``, the other parameters being ``fixed``."""
        return torch.func.grad(lambda p: loss({**fixed, **p}))(params)

    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        seen = self.seen(problem, training)

        def start(meta: Meta) -> Carry:
            return Carry({n: p for n, p in self.start(problem, meta).items() if self.moves(n)}, {})

        def step(meta: Meta, carry: Carry, k: int) -> Carry:
            grads = self.slope(lambda p: seen.support_loss(p, task, k), carry.params, self.start(problem, meta))
            return Carry({n: p - self.step_size(meta, n, k) * grads[n] for n, p in carry.params.items()}, {})

        return Inner(start, step)
