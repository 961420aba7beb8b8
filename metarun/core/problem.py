"""What a method knows of the tasks: losses of one task as pure functions, whatever a task is made of."""

from __future__ import annotations

import abc
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from metarun.core.batch_norm import Norm
from metarun.core.metric import Metric
from metarun.core.tree import Params
from metarun.errors import UserError

Metrics = dict[str, Tensor]


class Reduction(enum.Enum):
    """How the inner loss sums over the support set.

    ``mean``: over all examples, as most PyTorch code. ``sum_over_shot``: the sum over examples divided by K, which
    is what the code published with the MAML paper descends (N times the mean, so N times the inner step).
    """

    mean = "mean"
    sum_over_shot = "sum_over_shot"


@dataclass(frozen=True, kw_only=True)
class Support:
    """How a method looks at support sets. batch: examples that an inner step sees, other ones each time; None: all."""

    reduction: Reduction = Reduction.mean
    batch: int | None = None


EVERYTHING = Support()


class Problem(abc.ABC):
    """A model and the tasks' losses. Every function is pure and for one task, which is any pytree of tensors.

    The engine adds the task axis T in front; a method never takes a task apart.
    """

    metric: Metric
    collects: ClassVar[bool] = False  # whether tasks are made by acting, with ``collect``

    def seen_by(self, support: Support) -> Problem:
        """The same problem with its support sets looked at so. Raises ``UserError`` where that means nothing."""
        if support != EVERYTHING:
            raise UserError("algo.inner_loss and algo.inner_batch: must be mean and null, since tasks list no examples")
        return self

    def collect(self, params: Params, tasks: Any, k: int) -> Any:
        """The tasks with the data that step k needs, made by acting with each task's own parameters [T, ...].

        k: inner step, from 0; after the last one, the query set. It is run on all tasks at once and outside of every
        derivative, so it may leave torch; random numbers come from the tasks' own keys.
        """
        return tasks

    @abc.abstractmethod
    def support_loss(self, params: Params, task: Any, k: int) -> Tensor:
        """What inner step k (from 0) descends, a scalar."""

    @abc.abstractmethod
    def support_metrics(self, params: Params, task: Any, k: int) -> Metrics:
        """{"loss", metric} on what inner step k sees."""

    @abc.abstractmethod
    def query_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        """Loss and {"loss", metric} on what the inner loop did not see."""

    @abc.abstractmethod
    def whole_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        """The same on all that there is of a task, for methods that do not adapt while they train."""

    @abc.abstractmethod
    def measure(self, params: Params, task: Any, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        """(metric, loss), each [len(norms)], of the parameters after k inner steps at test, for each kind of batch norm
        statistics."""
