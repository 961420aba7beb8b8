"""Baseline without meta-training: the network's random first parameters, fine-tuned on each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from metarun.algorithms.pretrain import Pretrain
from metarun.core import tree
from metarun.core.episode import View
from metarun.core.meta import Meta
from metarun.core.problem import Metrics, Problem


@dataclass(kw_only=True, slots=True)
class Random(Pretrain):
    """Fine-tuning from random parameters, with the step size that is best on the validation tasks."""

    view: ClassVar[View] = View.tasks
    fixed: ClassVar[tuple[str, ...]] = ("algo.inner_steps", "steps")

    def meta_iterations(self, steps: int) -> int:
        return 1

    def meta_grad(self, problem: Problem, meta: Meta, task: Any, progress: Tensor) -> tuple[Meta, Metrics]:
        _, metrics = problem.query_loss(meta.model, task)
        return tree.zeros_like(meta), metrics
