"""The interface between tasks and methods: losses of one task as pure functions, for any kind of task."""

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
    """How the inner loss is reduced over the support set.

    Attributes:
        mean: mean over all examples, as in most PyTorch code.
        sum_over_shot: sum over examples divided by K, as in the code published with the MAML paper: N times the mean,
            so N times the inner step.
    """

    mean = "mean"
    sum_over_shot = "sum_over_shot"


@dataclass(frozen=True, kw_only=True)
class Support:
    """How a method uses support sets.

    Attributes:
        reduction: how the inner loss is reduced.
        batch: support examples in an inner step, different ones in each step; None: all.
    """

    reduction: Reduction = Reduction.mean
    batch: int | None = None


EVERYTHING = Support()


class Problem(abc.ABC):
    """A model and the losses of its tasks.

    Every function is pure and works on one task, which is any pytree of tensors. The engine adds the leading task axis
    T. A method passes a task on and does not look into it.

    Attributes:
        metric: the metric that a task is evaluated by.
        collects: whether the data of a task come from acting, through ``collect``.
    """

    metric: Metric
    collects: ClassVar[bool] = False

    def seen_by(self, support: Support) -> Problem:
        """Return the same problem with its support sets used as ``support`` states.

        Raises:
            UserError: the tasks have no list of support examples, so this has no meaning.
        """
        if support != EVERYTHING:
            keys = "algo.inner_loss must be mean, algo.inner_batch and algo.eval_inner_batch null"
            raise UserError(f"{keys}, where the method has them: this data set's tasks list no examples")
        return self

    def collect(self, params: Params, tasks: Any, k: int, last: bool) -> Any:
        """Collect the data of inner step k by acting with each task's own parameters.

        This runs on all tasks at once and outside of every derivative, so it may use other libraries than torch. Random
        numbers must come from the tasks' own keys.

        Args:
            params: [T, ...] parameters of each task.
            tasks: T tasks.
            k: inner step, from 0.
            last: whether all inner steps are done and these are the query data.

        Returns:
            The tasks with the new data.
        """
        return tasks

    def beside(self, task: Any, k: int) -> Metrics:
        """Return scalars to state beside the metric after k inner steps, such as the noise of the actions."""
        return {}

    def restated(self, metric: Tensor) -> Metrics:
        """Return values of the metric in other units, to state beside it; of any shape, as ``metric`` is."""
        return {}

    @abc.abstractmethod
    def support_loss(self, params: Params, task: Any, k: int) -> Tensor:
        """Compute the loss that inner step k (from 0) minimises, a scalar."""

    @abc.abstractmethod
    def support_metrics(self, params: Params, task: Any, k: int) -> Metrics:
        """Compute {"loss", metric} on the support data of inner step k."""

    @abc.abstractmethod
    def query_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        """Compute (loss, {"loss", metric}) on the query data, which the inner loop does not use."""

    @abc.abstractmethod
    def whole_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        """Compute the same on a task's whole data, for methods that do not adapt during meta-training."""

    @abc.abstractmethod
    def measure(self, params: Params, task: Any, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        """Evaluate the parameters after k inner steps on the query data.

        Args:
            params: parameters after k inner steps.
            task: one task.
            k: number of inner steps.
            norms: batch norm statistics to evaluate with.

        Returns:
            (metric, loss), each [len(norms)].
        """


def require_given_data(problem: Problem, who: str, why: str) -> None:
    """Raise ``UserError`` for tasks whose data are collected by acting, for methods that cannot work on them.

    Args:
        problem: the problem.
        who: the method, for the message, e.g. ``algo=imaml``.
        why: what it would need, for the message.
    """
    if problem.collects:
        raise UserError(f"{who}: cannot work on data that are collected by acting, as this data set's are: {why}")
