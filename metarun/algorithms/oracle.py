"""The oracle of the MAML paper (Finn et al. 2017, section 5.1): a network that is told which task it faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metarun.algorithms.pretrain import Pretrain
from metarun.core.episode import View


@dataclass(kw_only=True, slots=True)
class Oracle(Pretrain):
    """Pretraining on inputs that carry the task's own parameters (for sinusoids amplitude and phase)."""

    view: ClassVar[View] = View.revealed
