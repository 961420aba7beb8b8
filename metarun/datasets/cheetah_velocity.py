"""Half-cheetah, velocity: Finn, Abbeel and Levine 2017, section 5.3, as run in the published code (cbfinn/maml_rl)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarun.datasets.cheetah import Cheetah


@dataclass(kw_only=True, slots=True)
class CheetahVelocity(Cheetah):
    """A half-cheetah runs at a velocity that it is not told, uniform in 0..2 m/s; a task is a velocity.

    The reward is minus the distance to that velocity, minus the cost of the action.
    """

    words: ClassVar[str] = "half-cheetah, velocity in 0..2 m/s"

    def fact(self, drawn: Tensor) -> Tensor:
        return drawn

    def gain(self, facts: Tensor, velocity: Tensor) -> Tensor:
        return -(velocity - facts).abs()

    def target(self, facts: Tensor) -> Tensor:
        return facts
