"""No meta-training at all: the network's first random parameters, fine-tuned on each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metarun.algorithms.base import model_params
from metarun.algorithms.pretrain import Pretrain
from metarun.core import tree
from metarun.core.episode import Episode, View
from metarun.core.hypergrad import Metrics
from metarun.core.objective import Objective
from metarun.core.tree import Params


@dataclass(kw_only=True, slots=True)
class Random(Pretrain):
    """The baseline below all others. Its step size, too, is the one that does best on the validation tasks."""

    view: ClassVar[View] = View.tasks
    fixed: ClassVar[tuple[str, ...]] = ("algo.inner_steps", "steps")

    def meta_iterations(self, steps: int) -> int:
        return 1

    def meta_grad(self, objective: Objective, meta: Params, task: Episode) -> tuple[Params, Metrics]:
        _, metrics = objective.query_loss(model_params(meta), task.query_x, task.query_y)
        return tree.zeros_like(meta), metrics
