"""Base classes of meta-learning methods: how a task adapts, and the meta-gradient of one task."""

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

MOST_INNER_STEPS = 100_000  # each inner step runs Python code


@dataclass(kw_only=True, slots=True)
class Algorithm(OuterSettings, abc.ABC):
    """A method and its settings. Subclasses implement ``inner`` and ``meta_grad`` for a single task.

    The training loop, evaluation, checkpoints and reports use a method only through this class.

    Attributes:
        fewest_inner_steps: smallest valid ``inner_steps`` and ``eval_inner_steps``.
        view: form of the data during meta-training.
        training_shot_keys: keys that ``training_shots`` depends on, for messages.
        of_training: fields that evaluation does not read; a subclass lists only those that it adds.
        fixed: keys of the configuration that the method sets itself.
        equal_shots: whether a support set must have equally many examples of each class.
        inner_steps: inner steps S in meta-training.
        eval_inner_steps: inner steps in validation and test; results are reported for 0 to this number of steps.
    """

    fewest_inner_steps: ClassVar[int] = 1
    view: ClassVar[View] = View.tasks
    training_shot_keys: ClassVar[str] = "shot or query"
    of_training: ClassVar[tuple[str, ...]] = ("inner_steps", *(field.name for field in fields(OuterSettings)))
    fixed: ClassVar[tuple[str, ...]] = ()
    equal_shots: ClassVar[bool] = False
    inner_steps: int
    eval_inner_steps: int

    def __post_init__(self) -> None:
        OuterSettings.__post_init__(self)
        require_count("inner_steps", self.inner_steps, self.fewest_inner_steps, MOST_INNER_STEPS)
        require_count("eval_inner_steps", self.eval_inner_steps, self.fewest_inner_steps, MOST_INNER_STEPS)

    @classmethod
    def training_only(cls) -> set[str]:
        """List the fields that only training reads: ``of_training`` of this class and its base classes."""
        return {name for above in cls.__mro__ for name in vars(above).get("of_training", ())}

    @classmethod
    def tunes(cls) -> bool:
        """Whether validation chooses among ``candidates``, also when a trained run is tested."""
        return cls.candidates is not Algorithm.candidates

    def training_shots(self, shot: int, query: int) -> tuple[int, int]:
        """Return (support, query) examples per class that a meta-training task needs.

        Args:
            shot: K of the configuration.
            query: Q of the configuration.
        """
        return shot, query

    def meta_iterations(self, steps: int) -> int:
        """Return the number of meta-iterations to run, 1..``steps``."""
        return steps

    def descends_query_loss(self) -> bool:
        """Whether the meta-gradient is that of the query loss after ``inner_steps``, exactly or to first order."""
        return False

    def any_way(self, problem: Problem) -> bool:
        """Whether a task may have another number of classes than the head of the network, since it gets its own."""
        return False

    def predicts_unadapted(self, problem: Problem) -> bool:
        """Whether the network predicts with the meta-parameters alone; not where a task gives it its head or state."""
        return not self.any_way(problem)

    def at(self, progress: float) -> Algorithm:
        """Return the method for this share (0..1) of meta-training, for methods that change during training.

        Every change needs a new trace. A number that changes in each meta-iteration must instead be a function of
        ``progress`` in ``meta_grad``.
        """
        return self

    def init(self, params: Params) -> Meta:
        """Make the first meta-parameters from the parameters of a new model.

        Raises:
            UserError: the method cannot use this model.
        """
        return Meta.of(params)

    def check_problem(self, problem: Problem, params: Params) -> None:
        """Raise ``UserError`` where the method cannot work on such tasks with a model of these parameters.

        It is called before any work.
        """

    def candidates(self, meta: Meta) -> list[Meta]:
        """List the meta-parameters among which validation chooses, for methods that tune a setting."""
        return [meta]

    @abc.abstractmethod
    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        """Make the inner loop of one task.

        Args:
            problem: model and losses.
            task: one task.
            training: True as in meta-training, False as in evaluation.
        """

    @abc.abstractmethod
    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        """Compute the meta-gradient of one task.

        Args:
            problem: model and losses.
            meta: meta-parameters.
            task: one task.
            progress: share (0..1) of meta-training that is done, float64 scalar.

        Returns:
            (meta-gradient like ``meta``, scalar metrics).
        """

    def model_in(self, meta: Meta, k: int) -> Params:
        """Return the model's parameters as inner step k (from 0) reads them, before those that adapting has moved."""
        return meta.model

    def adapt(self, problem: Problem, meta: Meta, task: Any, steps: int) -> Iterator[Params]:
        """Yield all model parameters of a task after 0, 1, ..., ``steps`` inner steps, as in evaluation."""
        for k, carry in enumerate(descend(self.inner(problem, task, training=False), meta, steps)):
            yield {**self.model_in(meta, max(k - 1, 0)), **carry.params}

    def measure_adaptation(
        self, problem: Problem, meta: Meta, task: Any, steps: range, norms: list[Norm]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Evaluate a task after each number of inner steps in ``steps``.

        Args:
            problem: model and losses.
            meta: meta-parameters.
            task: one task.
            steps: numbers of inner steps, ascending by 1.
            norms: batch norm statistics to evaluate with.

        Yields:
            (metric, loss), each [len(norms)].
        """
        path = enumerate(self.adapt(problem, meta, task, steps.stop - 1))
        for k, params in itertools.islice(path, steps.start, None):
            yield problem.measure(params, task, k, norms)

    def stamp(self) -> dict[str, str]:
        """Return facts for the protocol of every number, in addition to those of all methods."""
        return {}


@dataclass(kw_only=True, slots=True)
class GradientBased(Algorithm):
    """A method whose inner loop follows gradients of the support loss.

    Attributes:
        inner_lr: step size of the inner loop.
        inner_loss: reduction of the support loss.
    """

    inner_lr: float
    inner_loss: Reduction

    def __post_init__(self) -> None:
        Algorithm.__post_init__(self)
        require(self.inner_lr > 0, "inner_lr", self.inner_lr, "> 0")

    def batch(self, training: bool) -> int | None:
        """Return the number of support examples in an inner step, different ones in each step; None: all."""
        return None

    def check_problem(self, problem: Problem, params: Params) -> None:
        for training in (True, False):
            self.seen(problem, training)

    def seen(self, problem: Problem, training: bool) -> Problem:
        """Return the problem with its support sets as this method uses them."""
        return problem.seen_by(Support(reduction=self.inner_loss, batch=self.batch(training)))


def named(patterns: list[str], name: str) -> bool:
    """Whether fnmatch patterns name this parameter; ``!pattern`` takes names out again, and the last match wins."""
    fits = [pattern for pattern in patterns if fnmatchcase(name, pattern.removeprefix("!"))]
    return bool(fits) and not fits[-1].startswith("!")


def require_patterns(key: str, patterns: list[str], params: Params) -> None:
    """Raise ``ConfigError`` where a pattern under ``key`` fits the name of no parameter."""
    for pattern in patterns:
        known = any(fnmatchcase(name, pattern.removeprefix("!")) for name in params)
        require(known, key, pattern, f"a pattern of parameter names: {', '.join(params)}")


@dataclass(kw_only=True, slots=True)
class GradientDescent(GradientBased):
    """Inner loop theta_k+1 = theta_k - step size * grad L_support(theta_k), on all parameters or some.

    Attributes:
        frozen: fnmatch patterns of parameters that the inner loop does not update; ``!pattern`` re-includes; the last
            match wins.
        inner_batch: support examples in an inner step, different ones in each step; null: all.
        eval_later_lr: step size in evaluation from the second inner step on, as a share of the first one's.
    """

    frozen: list[str]
    inner_batch: int | None
    eval_later_lr: float

    def __post_init__(self) -> None:
        GradientBased.__post_init__(self)
        require(self.inner_batch is None or self.inner_batch >= 1, "inner_batch", self.inner_batch, ">= 1, or null")
        require(self.eval_later_lr > 0, "eval_later_lr", self.eval_later_lr, "> 0")

    def batch(self, training: bool) -> int | None:
        return self.inner_batch

    def init(self, params: Params) -> Meta:
        require_patterns("algo.frozen", self.frozen, params)
        require(any(map(self.moves, params)), "algo.frozen", self.frozen, "such that a parameter is left to adapt")
        return Meta.of(params)

    def moves(self, name: str) -> bool:
        """Whether the inner loop updates the model's parameter of this name."""
        return not named(self.frozen, name)

    def start(self, problem: Problem, meta: Meta, task: Any) -> Params:
        """Return the model's parameters that a task starts from; those that are not the model's own must be adapted."""
        return meta.model

    def step_size(self, meta: Meta, name: str, k: int) -> Tensor | float:
        """Return the step size of parameter ``name`` in inner step k; it broadcasts to the parameter."""
        return self.inner_lr

    def slope(self, loss: Callable[[Params], Tensor], params: Params, fixed: Params) -> Params:
        """Compute the gradient of the support loss with respect to ``params``; the others are in ``fixed``."""
        return torch.func.grad(lambda p: loss({**fixed, **p}))(params)

    def inner(self, problem: Problem, task: Any, *, training: bool) -> Inner:
        seen = self.seen(problem, training)

        def start(meta: Meta) -> Carry:
            return Carry({n: p for n, p in self.start(problem, meta, task).items() if self.moves(n)}, {})

        def step(meta: Meta, carry: Carry, k: int) -> Carry:
            grads = self.slope(lambda p: seen.support_loss(p, task, k), carry.params, self.model_in(meta, k))
            share = 1.0 if training or k == 0 else self.eval_later_lr
            return Carry({n: p - share * self.step_size(meta, n, k) * grads[n] for n, p in carry.params.items()}, {})

        return Inner(start, step)
