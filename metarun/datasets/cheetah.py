"""Half-cheetahs that run: protocols, environment and tasks that the families of half-cheetah tasks share."""

from __future__ import annotations

import abc
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy
import torch
from torch import Tensor

from metarun.core import rng
from metarun.core.episode import TaskFigure
from metarun.core.rollout import Environment, Traced
from metarun.datasets import half_cheetah
from metarun.datasets.acting import PUBLISHED, ActingDataset, ActingTasks, TestGoals, published_goals
from metarun.datasets.base import Split, Tasks
from metarun.datasets.half_cheetah import JOINTS, MOTORS, TIME_STEP, Array, Centre

FASTEST = 2.0  # m/s, of a goal
LOST = 1e3  # m/s or rad/s: a body that is faster is no simulation any more, and counts as nan
STATE = 1 + 2 * JOINTS  # numbers in MuJoCo's state: time, positions, velocities
BEGIN = 1.0  # s, an episode's first time: MuJoCo sets a body that it gives up, and its time, back to 0


class Protocol(enum.Enum):
    """What a step, an observation and the cost of an action are. Returns of two protocols cannot be compared.

    Attributes:
        rllab: of rllab and the MAML paper: 0.01 s a step, velocity of the centre of mass.
        gymnasium: of gymnasium's HalfCheetah-v5: 0.05 s a step, mean velocity of the torso.
    """

    rllab = "rllab"
    gymnasium = "gymnasium"

    @property
    def frame_skip(self) -> int:
        """Steps of the physics in a step of the environment."""
        return 1 if self is Protocol.rllab else 5

    @property
    def observations(self) -> int:
        """Numbers in an observation: all positions but x, all velocities; rllab's ends with the centre of mass."""
        return 20 if self is Protocol.rllab else 17

    @property
    def cost(self) -> float:
        """Factor of an action's squared length in the reward."""
        return 0.05 if self is Protocol.rllab else 0.1

    def reset(self, keys: Tensor) -> Tensor:
        """Draw first positions and velocities, [..., 18], for keys [...]: noise around the body at rest."""
        if self is Protocol.rllab:
            joints, speeds = rng.normal(keys, 2 * JOINTS).split(JOINTS, -1)
            return torch.cat([0.01 * joints, 0.1 * speeds], -1)
        joints = rng.uniform(rng.fold(keys, 0), JOINTS)
        return torch.cat([0.2 * joints - 0.1, 0.1 * rng.normal(rng.fold(keys, 1), JOINTS)], -1)

    def stamp(self) -> dict[str, str]:
        """Return facts for the protocol of every number measured with it."""
        ours = self is Protocol.rllab
        return {
            "protocol": self.value,
            "frame_skip": f"{self.frame_skip} of {TIME_STEP} s",
            "velocity": "of the centre of mass, behind the step" if ours else "of the torso, mean over the step",
            "control_cost": f"{self.cost} times the squared length of the action, in -1..1",
            "reset_noise": "0.01 N, velocities 0.1 N" if ours else "U(-0.1, 0.1), velocities 0.1 N",
            "observation": f"{self.observations} numbers" + (", the last three the centre of mass" if ours else ""),
        }


class Bodies(NamedTuple):
    """State of M bodies for each of T tasks, float64; nan from the step on in which a body or its policy diverged.

    Attributes:
        physics: [T, M, 19], MuJoCo's state: time, positions, velocities.
        centre: [T, M, 3], the centre of mass.
        velocity: [T, M], of the centre of mass along x.
    """

    physics: Array
    centre: Array
    velocity: Array


class HalfCheetahs(Environment):
    """All bodies step together in one call of ``mujoco.rollout``, with as many threads as torch has.

    Actions are clipped to -1..1. No episode ends before the horizon. A body has the same bits in any batch and with any
    number of threads: each step begins as if the body had just been set down, without the solver's last solution.

    Args:
        family: the settings, with the protocol, the horizon and the reward.
    """

    actions = MOTORS

    def __init__(self, family: Cheetah):
        self.family, self.protocol, self.horizon = family, family.protocol, family.horizon
        self.observations = self.protocol.observations
        self.mujoco, self.model = half_cheetah.mujoco(), half_cheetah.model()
        self.centre = Centre(self.model)
        self.work = [self.mujoco.MjData(self.model)]  # one a thread, without memory

    def reset(self, facts: Tensor, keys: Tensor) -> Bodies:
        first = self.protocol.reset(keys).cpu().to(torch.float64).numpy()
        return self._bodies(numpy.concatenate([numpy.full((*keys.shape, 1), BEGIN), first], -1))

    def observe(self, state: Bodies) -> Tensor:
        seen = [state.physics[..., 2:]]  # neither time nor x
        if self.protocol is Protocol.rllab:
            seen.append(state.centre)
        return torch.from_numpy(numpy.concatenate(seen, -1))

    def step(self, facts: Tensor, state: Bodies, action: Tensor) -> tuple[Bodies, Tensor, Tensor]:
        control = action.clamp(-1, 1).cpu().to(torch.float64)
        moved = self._bodies(self._moved(state.physics, control.numpy()))
        velocity = moved.velocity
        if self.protocol is Protocol.gymnasium:
            velocity = (moved.physics[..., 1] - state.physics[..., 1]) / (self.protocol.frame_skip * TIME_STEP)
        gain = self.family.gain(facts.cpu().to(torch.float64), torch.from_numpy(velocity))
        reward = gain - self.protocol.cost * control.square().sum(-1)
        return moved, reward.to(facts.device), torch.zeros(reward.shape, dtype=torch.bool, device=facts.device)

    def traced(self, facts: Tensor, state: Bodies) -> Traced:
        velocity = torch.from_numpy(state.velocity)[..., None]
        return Traced("velocity (m/s)", velocity, self.family.target(facts))

    def _bodies(self, physics: Array) -> Bodies:
        columns = numpy.ascontiguousarray(physics.reshape(-1, STATE).T)  # numpy is faster on long rows
        centre, velocity = self.centre(columns[1 : 1 + JOINTS], columns[1 + JOINTS :])
        return Bodies(physics, centre.reshape(*physics.shape[:-1], 3), velocity.reshape(physics.shape[:-1]))

    def _moved(self, physics: Array, control: Array) -> Array:
        """Return the next MuJoCo state, [T, M, 19], under controls [T, M, 6].

        MuJoCo never sees nan: it would put such a body back to its start, as it does with one that it gives up.
        """
        before, push = physics.reshape(-1, STATE), control.reshape(-1, 1, MOTORS)
        lost = numpy.isnan(before[:, 0] + push.sum((1, 2)))
        if lost.any():
            before, push = numpy.where(lost[:, None], 0.0, before), numpy.where(lost[:, None, None], 0.0, push)
        threads = torch.get_num_threads()
        self.work += [self.mujoco.MjData(self.model) for _ in range(threads - len(self.work))]
        pool = self.mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        with half_cheetah.silent(self.mujoco), pool:
            steps, _ = pool.rollout(self.model, self.work[:threads], before, push, nstep=self.protocol.frame_skip)
        after = steps[:, -1]
        fine = numpy.abs(after[:, 1 + JOINTS :]).max(1) <= LOST  # not where it is nan
        lost |= ~fine | (after[:, 0] <= before[:, 0])
        after[lost] = numpy.nan
        return after.reshape(physics.shape)


@dataclass(kw_only=True, slots=True)
class Cheetah(ActingDataset, abc.ABC):
    """Settings of half-cheetahs that run. A task is a number from 0..2, as a fact of its own kind.

    Attributes:
        protocol: what a step, an observation and the cost of an action are.
        test_goals: goals of the test tasks.
    """

    words: ClassVar[str]  # the family, for the protocol
    protocol: Protocol
    test_goals: TestGoals

    @abc.abstractmethod
    def fact(self, drawn: Tensor) -> Tensor:
        """Turn numbers drawn from 0..2 into tasks' facts, both [T, 1]."""

    @abc.abstractmethod
    def gain(self, facts: Tensor, velocity: Tensor) -> Tensor:
        """Compute the reward of velocities [T, M], m/s, for tasks with facts [T, 1], without the cost of the action."""

    def target(self, facts: Tensor) -> Tensor | None:
        """Return the velocity that each task asks for, [T, 1]; None where it asks for none."""
        return None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.protocol.observations,)

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        return CheetahTasks(self, device)


class CheetahTasks(ActingTasks):
    """Tasks of a ``Cheetah`` family on a device; MuJoCo itself runs on the CPU."""

    figure = TaskFigure.traces

    def __init__(self, family: Cheetah, device: torch.device):
        self.cheetahs = family
        environment = HalfCheetahs(family)
        stamp = {
            "family": family.words,
            "test_goals": family.test_goals.value,
            **family.protocol.stamp(),
            "simulator": f"MuJoCo {environment.mujoco.__version__}",  # on which the bits depend
        }
        ActingTasks.__init__(self, family, environment, device, stamp)

    def most(self, split: Split) -> int | None:
        return PUBLISHED if split is Split.test and self.cheetahs.test_goals is TestGoals.finn2017 else None

    def facts(self, split: Split, seed: int, indices: range, keys: Tensor) -> Tensor:
        if self.most(split) is None:
            return self.cheetahs.fact(FASTEST * rng.uniform(keys, 1))
        goals = published_goals(0, FASTEST, 1)[indices.start : indices.stop : indices.step]
        return self.cheetahs.fact(goals.to(self.device))
