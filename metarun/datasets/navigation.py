"""2D navigation: Finn, Abbeel and Levine 2017, section 5.3, as run in the published code (cbfinn/maml_rl)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.acting import ActingTask
from metarun.core.episode import TaskFigure
from metarun.core.metric import RETURN, Metric
from metarun.core.rollout import Environment, Traced, rollout
from metarun.core.tree import Params
from metarun.datasets.acting import PUBLISHED, ActingDataset, ActingTasks, TestGoals, published_goals
from metarun.datasets.base import Split, Tasks

SIDE = 0.5  # goals are uniform in -SIDE..SIDE, on both axes
REACH = 0.1  # of one move, on each axis
NEAR = 0.01  # an episode ends where both axes are nearer to the goal than this
YARDSTICKS = 10**6  # of their random streams; those of inner steps have smaller numbers


@dataclass(kw_only=True, slots=True)
class Navigation(ActingDataset):
    """A point walks to a goal that it does not see, uniform in a square; a task is a goal.

    The point starts at the origin and moves by 0.1 times the action, clipped to -1..1 on each axis. The reward is minus
    the distance to the goal after the move (not squared, as in the code; the paper's text squares it).

    Attributes:
        test_goals: goals of the test tasks.
    """

    metric: ClassVar[Metric] = replace(RETURN, bounds=(-math.inf, 0.0))
    test_goals: TestGoals

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (2,)

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        return Goals(self, device)


class Plane(Environment):
    """The plane, with the position as state and observation, and the goal [T, 2] as a task's facts."""

    observations, actions = 2, 2

    def __init__(self, horizon: int):
        self.horizon = horizon

    def reset(self, facts: Tensor, keys: Tensor) -> Tensor:
        return facts.new_zeros(*keys.shape, 2)

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(self, facts: Tensor, state: Any, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        position = state + REACH * action.clamp(-1, 1)
        off = position - facts[:, None]
        return position, -off.norm(dim=-1), (off.abs() < NEAR).all(-1)

    def traced(self, facts: Tensor, state: Any) -> Traced:
        return Traced("position", state, facts)


class Goals(ActingTasks):
    """Tasks of a ``Navigation`` family on a device."""

    figure = TaskFigure.paths

    def __init__(self, family: Navigation, device: torch.device):
        self.goals = family.test_goals
        published = f"other goals, at test the {PUBLISHED} published"
        split = published if self.goals is TestGoals.finn2017 else "other goals"
        stamp = {"split": split, "family": f"goal in -{SIDE}..{SIDE} squared", "test_goals": family.test_goals.value}
        ActingTasks.__init__(self, family, Plane(family.horizon), device, stamp)

    def most(self, split: Split) -> int | None:
        return PUBLISHED if split is Split.test and self.goals is TestGoals.finn2017 else None

    def facts(self, split: Split, seed: int, indices: range, keys: Tensor) -> Tensor:
        if self.most(split) is None:
            return SIDE * (2 * rng.uniform(keys, 2) - 1)
        goals = published_goals(-SIDE, SIDE, 2)
        return goals[indices.start : indices.stop : indices.step].to(self.device)

    def yardsticks(self, tasks: ActingTask, beside: Mapping[str, float]) -> dict[str, Tensor]:
        def still(goal: Params, seen: Tensor) -> Tensor:
            return torch.zeros_like(seen[:, :1]).expand(-1, 4)

        def straight(goal: Params, seen: Tensor) -> Tensor:
            mean = ((goal["facts"] - seen[:, :2]) / REACH).clamp(-1, 1)
            return torch.cat([mean, torch.full_like(mean, math.log(beside["sigma"]))], -1)

        def gained(controller: Callable[[Params, Tensor], Tensor], keys: Tensor, mean_actions: bool) -> Tensor:
            played = rollout(self.environment, controller, {"facts": tasks.facts}, tasks.facts, keys, mean_actions)
            return played.reward.sum(-1).mean(-1)

        keys = rng.fold(tasks.query_keys, YARDSTICKS)
        return {
            "hovering at the start": gained(still, keys[:, :1], True),
            "greedy controller with the policy's sigma": gained(straight, keys, False),
            "best possible": gained(straight, keys[:, :1], True),
        }
