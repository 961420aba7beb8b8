"""Families of tasks that are made by acting: settings and tasks that every environment shares."""

from __future__ import annotations

import abc
import copy
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.acting import Acting, ActingTask, Estimator
from metarun.core.episode import View
from metarun.core.metric import RETURN, Metric
from metarun.core.rollout import Environment, Traced
from metarun.core.tree import Params
from metarun.datasets.base import Dataset, Split, Tasks, task_keys
from metarun.errors import require, require_count


class Actions(enum.Enum):
    """Actions whose return is measured.

    Attributes:
        sampled: drawn from the policy, as published.
        mean: the policy's mean, on trajectories of its own.
    """

    sampled = "sampled"
    mean = "mean"


PUBLISHED = 40  # test goals


class TestGoals(enum.Enum):
    """Goals of the test tasks.

    Attributes:
        finn2017: the 40 of the published table, from numpy's legacy generator with seed 1.
        drawn: drawn anew from ``eval.seed``.
    """

    finn2017 = "finn2017"
    drawn = "drawn"


def published_goals(low: float, high: float, numbers: int) -> Tensor:
    """Draw the goals of the published test tasks, [40, numbers] float32, uniform in low..high."""
    return torch.tensor(numpy.random.RandomState(1).uniform(low, high, (PUBLISHED, numbers)), dtype=torch.float32)


@dataclass(kw_only=True, slots=True)
class ActingDataset(Dataset, abc.ABC):
    """Settings of tasks that are made by acting. ``shot`` and ``query`` are trajectories.

    Attributes:
        horizon: steps after which an episode ends.
        discount: gamma of returns and advantages, 0..1.
        gae: lambda of the advantages, 0..1; 1: return minus baseline.
        estimator: surrogate whose gradient is the inner step.
        actions: actions whose return is measured.
    """

    has_way: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    metric: ClassVar[Metric] = RETURN
    horizon: int
    discount: float
    gae: float
    estimator: Estimator
    actions: Actions

    def __post_init__(self) -> None:
        require_count("horizon", self.horizon, 1, 100_000)
        for name in ("discount", "gae"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0..1")

    @property
    def inputs_of_an_example(self) -> int:
        return self.horizon

    def kind(self, way: int, shot: int) -> str:
        return f"{shot} trajector{'y' if shot == 1 else 'ies'} of {self.horizon} steps"

    def short_kind(self, way: int, shot: int) -> str:
        return f"{shot}t"


class ActingTasks(Tasks, abc.ABC):
    """Tasks of an environment on a device. A subclass says what tells them apart (``facts``).

    Args:
        family: the settings.
        environment: where the policies act.
        device: device of the tasks.
        stamp: facts of the family for the protocol.
    """

    def __init__(self, family: ActingDataset, environment: Environment, device: torch.device, stamp: dict[str, str]):
        self.family, self.environment, self.device = family, environment, device
        self.input_shape = (environment.observations,)
        self.stamp = {
            "split": "same family, other tasks",
            **stamp,
            "horizon": str(family.horizon),
            "inner_estimator": family.estimator.value,
            "measured_actions": family.actions.value,
        }

    @abc.abstractmethod
    def facts(self, split: Split, seed: int, indices: range, keys: Tensor) -> Tensor:
        """Return what tells the tasks with these indices and keys [T] apart, [T, P]."""

    def has(self, split: Split) -> bool:
        return True

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        """Every such task exists."""

    def outputs(self, way: int) -> int:
        return 2 * self.environment.actions

    def inputs(self, tasks: ActingTask) -> Tensor:
        keys = torch.cat([tasks.support_keys, tasks.query_keys], 1)  # a row for each trajectory
        return rng.normal(keys, *self.input_shape)

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Acting:
        family = self.family
        return Acting(
            metric=family.metric,
            environment=self.environment,
            forward=forward,
            discount=family.discount,
            gae=family.gae,
            estimator=family.estimator,
            mean_actions=family.actions is Actions.mean,
        )

    def seen(self, view: View) -> Tasks:
        return told(self) if view is View.revealed else self

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> ActingTask:
        keys = task_keys(seed, split, indices, self.device)
        facts = self.facts(split, seed, indices, rng.fold(keys, 0))
        return ActingTask(facts, rng.bits(rng.fold(keys, 1), shot), rng.bits(rng.fold(keys, 2), query))


class Told(Environment):
    """The same environment with observations that end with the facts of the task.

    Args:
        environment: the environment.
        facts: P.
    """

    def __init__(self, environment: Environment, facts: int):
        self.environment, self.actions, self.horizon = environment, environment.actions, environment.horizon
        self.observations = environment.observations + facts

    def reset(self, facts: Tensor, keys: Tensor) -> Any:
        return self.environment.reset(facts, keys), facts[:, None].expand(-1, keys.shape[1], -1)

    def observe(self, state: Any) -> Tensor:
        seen, facts = self.environment.observe(state[0]), state[1]
        return torch.cat([seen, facts.to(seen)], -1)

    def step(self, facts: Tensor, state: Any, action: Tensor) -> tuple[Any, Tensor, Tensor]:
        moved, reward, done = self.environment.step(facts, state[0], action)
        return (moved, state[1]), reward, done

    def traced(self, facts: Tensor, state: Any) -> Traced | None:
        return self.environment.traced(facts, state[0])


def told(tasks: ActingTasks) -> ActingTasks:
    """Return the same tasks with observations that contain what tells them apart."""
    facts = tasks.facts(Split.train, 0, range(1), task_keys(0, Split.train, range(1), tasks.device)).shape[1]
    same = copy.copy(tasks)
    same.environment = Told(tasks.environment, facts)
    same.input_shape = (same.environment.observations,)
    return same
