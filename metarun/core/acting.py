"""Tasks made by acting: reinforcement learning as a ``Problem`` whose data are a policy's own trajectories."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from metarun.core import policy, returns, rng
from metarun.core.batch_norm import Norm
from metarun.core.metric import RETURN, Metric
from metarun.core.problem import Metrics, Problem
from metarun.core.rollout import Environment, rollout
from metarun.core.tree import Params
from metarun.errors import UserError

ENV_STEPS = "env_steps"  # the metric that counts a task's steps in its environment


class Experience(NamedTuple):
    """What the policies after k inner steps met: M trajectories of at most H steps for each of T tasks.

    Rows behind the end of an episode are 0. Everything here is a constant for every derivative.

    Attributes:
        observation: [T, M, H, O].
        action: [T, M, H, A], as drawn.
        outputs: [T, M, H, 2A] of the policy that drew it.
        reward: [T, M, H].
        advantage: [T, M, H], mean 0 and standard deviation 1 over the task's valid rows.
        valid: [T, M, H], 1 up to the move that ended the episode.
        explained: [T], share of the returns' variance that the baseline explains.
        gained: [T], the measured return: mean over trajectories of the sum of rewards, not discounted.
    """

    observation: Tensor
    action: Tensor
    outputs: Tensor
    reward: Tensor
    advantage: Tensor
    valid: Tensor
    explained: Tensor
    gained: Tensor


class ActingTask(NamedTuple):
    """T tasks to act in, or one without the leading axis.

    Attributes:
        facts: [T, P], what tells tasks apart: a goal, a velocity.
        support_keys: [T, K] int64, a random stream for each trajectory before an inner step.
        query_keys: [T, Q] int64, the same after the last inner step.
        experience: of inner steps 0, 1, ..., as far as it is collected; the last is the query data.
    """

    facts: Tensor
    support_keys: Tensor
    query_keys: Tensor
    experience: tuple[Experience, ...] = ()


class Estimator(enum.Enum):
    """Surrogate whose gradient is the inner step. All three have the same first derivative.

    Attributes:
        official: log pi * advantage, as in the code published with MAML. Its second derivative lacks the terms that say
            how the parameters change what is drawn.
        lvc: pi / pi_old * advantage (Rothfuss et al. 2019, "ProMP", section 6): biased little, low variance.
        dice: products of pi / pi over the steps so far (Foerster et al. 2018, in the form of Farquhar et al. 2019,
            "Loaded DiCE"): exact second derivative, high variance.
    """

    official = "official"
    lvc = "lvc"
    dice = "dice"

    def weights(self, log_pi: Tensor, old: Tensor, valid: Tensor) -> Tensor:
        """Compute the factor of each advantage.

        Args:
            log_pi: [M, H] log probabilities of the actions.
            old: [M, H], the same for the policy that drew them.
            valid: [M, H].

        Returns:
            [M, H].
        """
        if self is Estimator.official:
            return log_pi
        if self is Estimator.lvc:
            return (log_pi - old).exp()
        summed = (log_pi * valid).cumsum(-1)
        here = summed - summed.detach()
        before = torch.cat([torch.zeros_like(here[..., :1]), here[..., :-1]], -1)
        return here.exp() - before.exp()


def mean_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values [M, H] over the valid rows, a scalar."""
    return (values * valid).sum() / valid.sum()


def sigma(data: Experience) -> Tensor:
    """Mean standard deviation of one task's policy over its actions and the valid rows, a scalar."""
    return mean_valid(policy.moments(data.outputs)[1].exp().mean(-1), data.valid)


@dataclass(frozen=True, kw_only=True)
class Acting(Problem):
    """Problem whose tasks are collected by acting with the parameters after each inner step.

    The loss of an inner step is minus the estimator's surrogate; that of the query data is minus the mean of
    ratio * advantage, the ratio being pi / pi_old, which is 1 at the parameters that collected the data.

    Attributes:
        environment: where the policies act.
        forward: (params, observations [B, O]) -> outputs [B, 2A].
        discount: gamma of returns and advantages, 0..1.
        gae: lambda of the advantages, 0..1.
        estimator: surrogate of the inner loss.
        mean_actions: measure returns of the policies' means, on trajectories of their own, instead of drawn actions.
        clip: bound on how far the ratio of the query loss counts beyond 1; None: none.
    """

    collects: ClassVar[bool] = True
    metric: Metric = RETURN
    environment: Environment
    forward: Callable[[Params, Tensor], Tensor]
    discount: float
    gae: float
    estimator: Estimator
    mean_actions: bool = False
    clip: float | None = None

    def clipped(self, clip: float) -> Acting:
        """Return the same problem with the query loss of PPO: the ratio counts within 1 - clip..1 + clip."""
        return replace(self, clip=clip)

    def collect(self, params: Params, tasks: ActingTask, k: int, last: bool) -> ActingTask:
        keys = rng.fold(tasks.query_keys if last else tasks.support_keys, k)
        played = rollout(self.environment, self.forward, params, tasks.facts, keys)
        sums = returns.discounted(played.reward, self.discount)
        values = returns.fitted_values(played.observation, sums, played.valid)
        judged = played
        if self.mean_actions:
            judged = rollout(self.environment, self.forward, params, tasks.facts, keys, mean_actions=True)
        better = returns.advantages(played.reward, values, played.valid, self.discount, self.gae)
        data = Experience(
            observation=played.observation,
            action=played.action,
            outputs=played.outputs,
            reward=played.reward,
            advantage=returns.standardised(better, played.valid).to(sums.dtype),
            valid=played.valid,
            explained=returns.explained(values, sums, played.valid).to(sums.dtype),
            gained=judged.reward.sum(-1).mean(-1),
        )
        return tasks._replace(experience=(*tasks.experience, data))

    def outputs(self, params: Params, data: Experience) -> Tensor:
        """Compute the policy's outputs, [M, H, 2A], on one task's experience."""
        flat = self.forward(params, data.observation.flatten(0, 1))
        return flat.unflatten(0, data.valid.shape)

    def support_loss(self, params: Params, task: ActingTask, k: int) -> Tensor:
        data = task.experience[k]
        weights = self.estimator.weights(*self.log_probabilities(self.outputs(params, data), data), data.valid)
        return -mean_valid(weights * data.advantage, data.valid)

    def log_probabilities(self, outputs: Tensor, data: Experience) -> tuple[Tensor, Tensor]:
        """Compute log pi of the actions, [M, H], now and for the policy that drew them."""
        return policy.log_probability(outputs, data.action), policy.log_probability(data.outputs, data.action)

    def support_metrics(self, params: Params, task: ActingTask, k: int) -> Metrics:
        return {"loss": self.support_loss(params, task, k).detach(), self.metric.name: task.experience[k].gained}

    def query_loss(self, params: Params, task: ActingTask) -> tuple[Tensor, Metrics]:
        data = task.experience[-1]
        outputs = self.outputs(params, data)
        loss = self.surrogate(outputs, data)
        far = {} if self.clip is None else {"clipped": self.far(outputs, data, self.clip).detach()}
        return loss, {"loss": loss.detach(), **self.for_journal(task), **far}

    def ratio(self, outputs: Tensor, data: Experience) -> Tensor:
        """Compute pi / pi_old of the actions, [M, H]."""
        log_pi, old = self.log_probabilities(outputs, data)
        return (log_pi - old).exp()

    def far(self, outputs: Tensor, data: Experience, clip: float) -> Tensor:
        """Share of the valid rows whose ratio is not within 1 - clip..1 + clip, a scalar."""
        return mean_valid(((self.ratio(outputs, data) - 1).abs() > clip).to(outputs), data.valid)

    def surrogate(self, outputs: Tensor, data: Experience) -> Tensor:
        """Compute minus the mean of ratio * advantage, a scalar, clipped where the problem says so."""
        ratio = self.ratio(outputs, data)
        gain = ratio * data.advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * data.advantage)
        return -mean_valid(gain, data.valid)

    def whole_loss(self, params: Params, task: ActingTask) -> tuple[Tensor, Metrics]:
        return self.query_loss(params, task)

    def divergence(self, params: Params, task: ActingTask, k: int) -> Tensor:
        """Mean KL(policy that collected || policy of ``params``) over step k's valid rows (-1: query), a scalar."""
        data = task.experience[k]
        return mean_valid(policy.divergence(data.outputs, self.outputs(params, data)), data.valid)

    def measure(self, params: Params, task: ActingTask, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        gained = task.experience[k].gained
        return gained.expand(len(norms)), -gained.expand(len(norms))

    def beside(self, task: ActingTask, k: int) -> Metrics:
        data = task.experience[k]
        transitions = data.valid.sum()
        trajectories = torch.full_like(transitions, len(data.valid))
        return {"sigma": sigma(data), "trajectories": trajectories, "transitions": transitions}

    def for_journal(self, task: ActingTask) -> Metrics:
        """Describe one task's experience for the journal, scalars: returns before and after, length, deviation, fit."""
        first, data = task.experience[0], task.experience[-1]
        return {
            self.metric.name: data.gained,
            self.metric.before: first.gained,
            ENV_STEPS: sum((part.valid.sum() for part in task.experience), torch.zeros_like(data.explained)),
            "sigma": sigma(data),
            "ended": 1 - data.valid[:, -1].mean(),
            "explained_variance": data.explained,
        }


def acting(problem: Problem, who: str) -> Acting:
    """Narrow the type of a problem, for rules that need policies.

    Args:
        problem: the problem.
        who: the setting that needs it, for the message.

    Raises:
        UserError: the problem's tasks are not made by acting.
    """
    if not isinstance(problem, Acting):
        raise UserError(f"{who}: works on policies that act, as in dataset=navigation; this data set has none")
    return problem
