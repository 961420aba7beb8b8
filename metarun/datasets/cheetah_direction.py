"""Half-cheetah, direction: Finn, Abbeel and Levine 2017, section 5.3, as run in the published code (cbfinn/maml_rl)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun.datasets.cheetah import Cheetah


@dataclass(kw_only=True, slots=True)
class CheetahDirection(Cheetah):
    """A half-cheetah runs as fast as it can, forward or backward, and is not told which; a task is a direction.

    The reward is the velocity in that direction, minus the cost of the action. A task runs forward (1) where a number
    drawn from 0..2 is at least 1, else backward (-1), so that the published test goals are those of the velocity tasks.
    """

    words: ClassVar[str] = "half-cheetah, forward or backward"

    def fact(self, drawn: Tensor) -> Tensor:
        return torch.where(drawn >= 1, 1.0, -1.0)

    def gain(self, facts: Tensor, velocity: Tensor) -> Tensor:
        return facts * velocity
