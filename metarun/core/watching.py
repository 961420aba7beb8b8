"""Episodes to look at: what an environment shows of the states that a task's policies meet while they adapt."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.acting import Acting, ActingTask
from metarun.core.rollout import Traced, rollout
from metarun.core.tree import Params


class Watched(NamedTuple):
    """Episodes of T tasks with the policies after some number of inner steps.

    Attributes:
        words: what is shown, for an axis.
        values: [T, M, H+1, D], from the first state on; nan behind the end of an episode.
        target: [T, D], the values that the tasks ask for; None: they ask for none.
        gained: [T], mean return of these episodes.
    """

    words: str
    values: Tensor
    target: Tensor | None
    gained: Tensor


@dataclass(frozen=True, kw_only=True)
class Watching(Acting):
    """The same problem, which notes a few of the measured episodes of each inner step.

    Attributes:
        trajectories: how many of a task are watched.
        seen: of inner steps 0, 1, ..., as far as they are collected.
    """

    trajectories: int
    seen: list[Watched]

    @staticmethod
    def of(problem: Acting, trajectories: int) -> Watching:
        """Watch so many trajectories of each task of a problem."""
        same = {field.name: getattr(problem, field.name) for field in fields(problem)}
        return Watching(**same, trajectories=trajectories, seen=[])

    def collect(self, params: Params, tasks: ActingTask, k: int, last: bool) -> ActingTask:
        keys = rng.fold((tasks.query_keys if last else tasks.support_keys)[:, : self.trajectories], k)
        states: list[Traced] = []

        def watch(state: object) -> None:
            traced = self.environment.traced(tasks.facts, state)
            states.extend([traced] if traced else [])

        played = rollout(self.environment, self.forward, params, tasks.facts, keys, self.mean_actions, watch)
        if states:
            shown = torch.stack([state.values for state in states], 2)
            reached = torch.cat([torch.ones_like(played.valid[..., :1]), played.valid], -1)[..., : shown.shape[2], None]
            values = torch.where(reached > 0, shown, torch.nan)
            self.seen.append(Watched(states[0].words, values, states[0].target, played.reward.sum(-1).mean(-1)))
        return super().collect(params, tasks, k, last)
