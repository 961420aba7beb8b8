"""The last layer of a network, ``head``, as one task starts with it."""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from metarun.core.objective import Supervised
from metarun.core.tree import Params

WEIGHT, BIAS = "head.weight", "head.bias"


class Head(enum.Enum):
    """The head that a task starts with. All but ``learned`` are made for each task, so that its way may be any.

    Attributes:
        learned: the network's own, the same for every task.
        zero: zeros (Kao, Chiu and Chen 2022, "MAML is a noisy contrastive learner in classification").
        prototypes: weights 2 c_n and biases -|c_n|^2, with c_n the mean embedding of class n's support examples; the
            meta-gradient flows through them (Proto-MAML; Triantafillou et al. 2020, "Meta-dataset", section 3).
    """

    learned = "learned"
    zero = "zero"
    prototypes = "prototypes"

    def of(self, problem: Supervised, params: Params, x: Tensor, y: Tensor) -> Params:
        """Make the head of one task.

        Args:
            problem: the network and the task's way.
            params: the network's parameters.
            x: support examples [N*K, ...].
            y: their labels [N*K].

        Returns:
            ``head.weight`` [N, width] and ``head.bias`` [N]; empty for ``learned``.
        """
        if self is Head.learned:
            return {}
        return zero(problem, params) if self is Head.zero else prototypes(problem, params, x, y)


def zero(problem: Supervised, params: Params) -> Params:
    """Make a head of zeros, one output for each class of the task."""
    return {name: params[name].new_zeros(problem.outputs, *params[name].shape[1:]) for name in (WEIGHT, BIAS)}


def prototypes(problem: Supervised, params: Params, x: Tensor, y: Tensor) -> Params:
    """Make the head that is nearest to the class means: its logits are -|f(x) - c_n|^2 + |f(x)|^2.

    Arguments and result as for ``Head.of``.
    """
    width, way = params[WEIGHT].shape[1], problem.outputs
    bare = {WEIGHT: torch.eye(width, dtype=x.dtype, device=x.device), BIAS: x.new_zeros(width)}
    embedded = problem.forward({**params, **bare}, x)  # [N*K, width]
    members = (y == torch.arange(way, device=y.device)[:, None]).to(x.dtype)  # [N, N*K]
    centres = members @ embedded / members.sum(1, keepdim=True)
    return {WEIGHT: 2 * centres, BIAS: -centres.square().sum(1)}
