"""Losses of acting tasks on given experience, by torch.distributions, as the reference of the policy case."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

from metarun.core.acting import Acting, Experience
from metarun.core.tree import Params


def policy_loss(problem: Acting, params: Params, data: Experience, query: bool) -> Tensor:
    """Compute minus the mean over valid rows of log pi * A, or for query data of pi / pi_old * A, a scalar.

    Args:
        problem: the problem; its ``forward`` is the policy network.
        params: the model's parameters.
        data: one task's experience, [M, H, ...].
        query: whether these are query data.
    """
    rows = data.valid.bool()
    action, advantage = data.action[rows], data.advantage[rows]

    def log_probability(outputs: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        return Normal(mean, log_std.exp()).log_prob(action).sum(-1)

    now = log_probability(problem.forward(params, data.observation[rows]))
    if not query:
        return -(now * advantage).mean()
    return -((now - log_probability(data.outputs[rows])).exp() * advantage).mean()
