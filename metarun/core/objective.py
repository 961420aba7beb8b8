"""What a task is judged by: a loss to descend and a metric to report, for one task at a time."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.core.tree import Params


class Reduction(enum.Enum):
    """How the inner loss sums over the support set.

    ``mean``: over all examples, as most PyTorch code. ``sum_over_shot``: the sum over examples divided by K, which
    is what the code published with the MAML paper descends (N times the mean, so N times the inner step).
    """

    mean = "mean"
    sum_over_shot = "sum_over_shot"


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, nats; logits [B, N], labels [B]. A gather instead of ``F.cross_entropy``: it batches."""
    return -F.log_softmax(logits, -1).gather(-1, labels[:, None]).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of sigmoid(logit), the probability of label 1, nats; logits [B, 1], labels [B] in 0..1.

    Softplus of the logit towards the other label, so that no sigmoid saturates on the way to a logarithm.
    """
    towards_other = (1 - 2 * labels) * logits[:, 0]
    return F.softplus(towards_other).mean()


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of squared differences; both [B, 1]."""
    return (outputs - targets).square().mean()


def _unless_diverged(metric: Tensor, outputs: Tensor, loss: Tensor) -> Tensor:
    """The metric, or nan where outputs or loss are not finite: the task diverged, and argmax would call nan class 0."""
    return torch.where(outputs.isfinite().all() & loss.isfinite(), metric, torch.nan)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label's, 0..1; logits [B, N], labels [B]. nan: diverged."""
    share = (logits.argmax(-1) == labels).to(logits.dtype).mean()
    return _unless_diverged(share, logits, cross_entropy(logits, labels))


def binary_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose logit is positive where the label is 1 and not where it is 0; [B, 1] and [B].
    nan: diverged."""
    share = ((logits[:, 0] > 0) == (labels == 1)).to(logits.dtype).mean()
    return _unless_diverged(share, logits, binary_cross_entropy(logits, labels))


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of squared differences as a metric; both [B, 1]. nan: diverged."""
    loss = mean_squared_error(outputs, targets)
    return _unless_diverged(loss, outputs, loss)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A model and its loss as pure functions of parameters: all that an algorithm knows of the task at hand.

    forward: (params, x [B, ...]) -> outputs [B, outputs]; loss, metric: (outputs, y) -> scalar. The metric of a task
    that diverged, one with outputs or a loss that are not finite, is nan.
    ``way`` is N for classification and 1 for regression, ``outputs`` the width of a network's last layer for one task.
    """

    forward: Callable[[Params, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], Tensor]
    metric_name: str
    larger_is_better: bool  # of the metric
    way: int
    outputs: int
    fixed_labels: bool  # whether an output is for the same class in every task

    def inner_loss(self, params: Params, x: Tensor, y: Tensor, reduction: Reduction) -> Tensor:
        """The loss that the inner loop descends, a scalar."""
        loss = self.loss(self.forward(params, x), y)
        return self.way * loss if reduction is Reduction.sum_over_shot else loss

    def goodness(self, value: float) -> float:
        """What orders values of the metric, the better one larger and what is not finite last."""
        if not math.isfinite(value):
            return -math.inf
        return value if self.larger_is_better else -value

    @property
    def worst(self) -> float:
        """The metric that stands for a task that diverged."""
        return 0.0 if self.larger_is_better else math.inf

    def query_loss(self, params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss and {"loss", metric} on examples that the inner loop did not see."""
        outputs = self.forward(params, x)
        loss = self.loss(outputs, y)
        return loss, {"loss": loss.detach(), self.metric_name: self.metric(outputs.detach(), y)}


def classification(forward: Callable[[Params, Tensor], Tensor], way: int, fixed_labels: bool = False) -> Objective:
    return Objective(
        forward=forward,
        loss=cross_entropy,
        metric=accuracy,
        metric_name="accuracy",
        larger_is_better=True,
        way=way,
        outputs=way,
        fixed_labels=fixed_labels,
    )


def binary(forward: Callable[[Params, Tensor], Tensor]) -> Objective:
    """Two classes told apart by the sign of one output."""
    return Objective(
        forward=forward,
        loss=binary_cross_entropy,
        metric=binary_accuracy,
        metric_name="accuracy",
        larger_is_better=True,
        way=2,
        outputs=1,
        fixed_labels=True,
    )


def regression(forward: Callable[[Params, Tensor], Tensor]) -> Objective:
    return Objective(
        forward=forward,
        loss=mean_squared_error,
        metric=squared_error,
        metric_name="mse",
        larger_is_better=False,
        way=1,
        outputs=1,
        fixed_labels=True,
    )
