"""Meta-SGD: Li, Zhou, Chen and Li 2017, "Meta-SGD: learning to learn quickly for few-shot learning", equation 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun.algorithms.maml import MAML
from metarun.core.head import Head
from metarun.core.meta import Meta
from metarun.core.tree import Params
from metarun.errors import require


@dataclass(kw_only=True, slots=True)
class MetaSGD(MAML):
    """MAML with a meta-learned step size for every entry of the parameters.

    theta_k+1 = theta_k - alpha * grad L_support(theta_k), entry by entry (equation 2). alpha starts at ``inner_lr`` and
    may become negative, so the direction is learned as well.
    """

    fewest_inner_steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        MAML.__post_init__(self)
        plain = self.head is Head.learned
        require(
            plain, "head", self.head.value, "learned with algo=meta_sgd: its step sizes are those of one head's entries"
        )

    def init(self, params: Params) -> Meta:
        MAML.init(self, params)
        sizes = {name: torch.full_like(p, self.inner_lr) for name, p in params.items() if self.moves(name)}
        return Meta.of(params, step_sizes=sizes)

    def step_size(self, meta: Meta, name: str, k: int) -> Tensor | float:
        return meta.step_sizes[name]
