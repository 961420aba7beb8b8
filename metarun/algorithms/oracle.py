"""The oracle of the MAML paper (Finn et al. 2017, section 5.1): the network's input contains the task's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metarun.algorithms.pretrain import Pretrain
from metarun.core.episode import View


@dataclass(kw_only=True, slots=True)
class Oracle(Pretrain):
    """Pretraining on inputs that contain the task's own parameters (for sinusoids: amplitude and phase)."""

    view: ClassVar[View] = View.revealed
