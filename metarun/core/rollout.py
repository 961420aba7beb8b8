"""Acting: environments as pure functions, and trajectories of each task's own policy in them, for all tasks at once."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, vmap

from metarun.core import policy, rng
from metarun.core.tree import Params


class Trajectories(NamedTuple):
    """M trajectories of at most H steps for each of T tasks. Rows behind the end of an episode are 0.

    Attributes:
        observation: [T, M, H, O], before the action.
        action: [T, M, H, A], as the policy drew it; the environment scales and clips.
        outputs: [T, M, H, 2A] of the policy that drew it.
        reward: [T, M, H].
        valid: [T, M, H], 1 up to the move that ended the episode.
    """

    observation: Tensor
    action: Tensor
    outputs: Tensor
    reward: Tensor
    valid: Tensor


class Traced(NamedTuple):
    """What a figure shows of states.

    Attributes:
        words: what the numbers are, for an axis.
        values: [T, M, D]: two numbers are a place in the plane, one is drawn over time.
        target: [T, D], the values that the tasks ask for; None: they ask for none.
    """

    words: str
    values: Tensor
    target: Tensor | None


class Environment(abc.ABC):
    """Bodies that act: M for each of T tasks, side by side. Every method is a pure function.

    A state is any object. ``facts`` of a task [T, P] (a goal, a velocity) are all that tells tasks apart.

    Attributes:
        observations: O, numbers in an observation.
        actions: A, numbers in an action.
        horizon: H, steps after which an episode ends.
    """

    observations: int
    actions: int
    horizon: int

    @abc.abstractmethod
    def reset(self, facts: Tensor, keys: Tensor) -> Any:
        """Begin episodes.

        Args:
            facts: [T, P] of the tasks.
            keys: [T, M] int64, a random stream for each episode.

        Returns:
            The state.
        """

    @abc.abstractmethod
    def observe(self, state: Any) -> Tensor:
        """Return the observation, [T, M, O] floating point."""

    @abc.abstractmethod
    def step(self, facts: Tensor, state: Any, action: Tensor) -> tuple[Any, Tensor, Tensor]:
        """Move every body.

        Args:
            facts: [T, P] of the tasks.
            state: the state.
            action: [T, M, A], not bounded; nan where a policy diverged.

        Returns:
            (next state, reward [T, M], whether the episode ends [T, M] bool).
        """

    def traced(self, facts: Tensor, state: Any) -> Traced | None:
        """Return what a figure shows of a state; None: nothing."""
        return None


def rollout(
    environment: Environment,
    forward: Callable[[Params, Tensor], Tensor],
    params: Params,
    facts: Tensor,
    keys: Tensor,
    mean_actions: bool = False,
    watch: Callable[[Any], object] = lambda state: None,
) -> Trajectories:
    """Act with each task's own policy, without derivatives.

    Args:
        environment: the environment.
        forward: (params, observations [B, O]) -> outputs [B, 2A].
        params: [T, ...] parameters of each task.
        facts: [T, P] of the tasks.
        keys: [T, M] int64, a random stream for each trajectory.
        mean_actions: act by the policy's mean instead of drawing.
        watch: called with the first state and the one after each move.

    Returns:
        Trajectories in the parameters' type.
    """
    like = next(iter(params.values()))
    act = vmap(forward)
    noise = rng.normal(rng.fold(keys, 0), environment.horizon * environment.actions).to(like.dtype)
    noise = noise.unflatten(-1, (environment.horizon, environment.actions))
    if mean_actions:
        noise = torch.zeros_like(noise)
    rows: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        state = environment.reset(facts, rng.fold(keys, 1))
        watch(state)
        going = torch.ones_like(keys, dtype=torch.bool)
        for t in range(environment.horizon):
            observation = environment.observe(state).to(like.dtype)
            outputs = act(params, observation)
            action = policy.act(outputs, noise[:, :, t])
            state, reward, done = environment.step(facts, state, action)
            watch(state)
            row = (observation, action, outputs, reward.to(like.dtype)[..., None])
            rows.append((*(part.where(going[..., None], 0) for part in row), going))
            going = going & ~done
            if not going.any():
                break
    observation, action, outputs, reward, valid = (torch.stack(parts, 2) for parts in zip(*rows, strict=True))
    played = Trajectories(observation, action, outputs, reward[..., 0], valid.to(like.dtype))
    return Trajectories(*(_padded(part, environment.horizon) for part in played))


def _padded(part: Tensor, length: int) -> Tensor:
    """Fill axis 2 with zeros up to ``length``."""
    missing = length - part.shape[2]
    return torch.cat([part, part.new_zeros(*part.shape[:2], missing, *part.shape[3:])], 2) if missing else part
