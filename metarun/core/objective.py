"""Supervised tasks: their losses and metrics, and the problem that labelled examples are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.core.batch_norm import Norm, predict
from metarun.core.episode import Episode
from metarun.core.inner import minibatch
from metarun.core.metric import ACCURACY, SQUARED_ERROR, Metric
from metarun.core.problem import EVERYTHING, Metrics, Problem, Reduction, Support
from metarun.core.tree import Params
from metarun.errors import UserError


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
class Supervised(Problem):
    """Tasks that are labelled examples (``Episode``), and a model for them.

    forward: (params, x [B, ...]) -> outputs [B, outputs]. loss, judge: (outputs, y) -> scalar, what is descended and
    the metric; the metric of a task that diverged, one with outputs or a loss that are not finite, is nan.
    way: N for classification, 1 for regression. outputs: width of a network's last layer for one task.
    """

    forward: Callable[[Params, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], Tensor]
    metric: Metric
    way: int
    outputs: int
    fixed_labels: bool  # whether an output is for the same class in every task
    support: Support = EVERYTHING

    def seen_by(self, support: Support) -> Supervised:
        return replace(self, support=support)

    def support_set(self, task: Episode, k: int) -> tuple[Tensor, Tensor]:
        """The support examples that inner step k sees, and their labels."""
        x, y = task.support_x, task.support_y
        if self.support.batch is None:
            return x, y
        seen = minibatch(task.key, len(x), min(self.support.batch, len(x)), k)
        return x[seen], y[seen]

    def inner_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """The loss on support examples, reduced as the inner loop descends it."""
        loss = self.loss(self.forward(params, x), y)
        return self.way * loss if self.support.reduction is Reduction.sum_over_shot else loss

    def judged(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Metrics]:
        """Mean loss and {"loss", metric} of outputs."""
        loss = self.loss(outputs, y)
        return loss, {"loss": loss.detach(), self.metric.name: self.judge(outputs.detach(), y)}

    def support_loss(self, params: Params, task: Episode, k: int) -> Tensor:
        return self.inner_loss(params, *self.support_set(task, k))

    def support_metrics(self, params: Params, task: Episode, k: int) -> Metrics:
        x, y = self.support_set(task, k)
        return self.judged(self.forward(params, x), y)[1]

    def query_loss(self, params: Params, task: Episode) -> tuple[Tensor, Metrics]:
        return self.judged(self.forward(params, task.query_x), task.query_y)

    def whole_loss(self, params: Params, task: Episode) -> tuple[Tensor, Metrics]:
        x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        return self.judged(self.forward(params, x), y)

    def predict(self, params: Params, task: Episode, norm: Norm) -> Tensor:
        """Outputs [N*Q, outputs] for the query set, with the statistics of ``norm`` (not ``all``)."""
        return predict(self.forward, params, task.support_x, task.query_x, norm)

    def measure(self, params: Params, task: Episode, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        return self.measured([self.predict(params, task, norm) for norm in norms], task.query_y)

    def measured(self, outputs: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """(metric, loss), each [len(outputs)], of several outputs for the same targets."""
        metrics, losses = ([of(o, y) for o in outputs] for of in (self.judge, self.loss))
        return torch.stack(metrics), torch.stack(losses)


def supervised(problem: Problem, who: str) -> Supervised:
    """The problem, for methods that work on labelled examples alone. Raises ``UserError`` for any other."""
    if not isinstance(problem, Supervised):
        raise UserError(f"{who}: works on labelled examples, which this data set's tasks have none of")
    return problem


Forward = Callable[[Params, Tensor], Tensor]


def classification(forward: Forward, way: int, fixed_labels: bool = False) -> Supervised:
    return Supervised(
        forward=forward,
        loss=cross_entropy,
        judge=accuracy,
        metric=ACCURACY,
        way=way,
        outputs=way,
        fixed_labels=fixed_labels,
    )


def binary(forward: Forward) -> Supervised:
    """Two classes told apart by the sign of one output."""
    return Supervised(
        forward=forward,
        loss=binary_cross_entropy,
        judge=binary_accuracy,
        metric=ACCURACY,
        way=2,
        outputs=1,
        fixed_labels=True,
    )


def regression(forward: Forward) -> Supervised:
    return Supervised(
        forward=forward,
        loss=mean_squared_error,
        judge=squared_error,
        metric=SQUARED_ERROR,
        way=1,
        outputs=1,
        fixed_labels=True,
    )
