"""Supervised tasks: losses and metrics of labelled examples, and the ``Problem`` made from them."""

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
    """Mean cross-entropy in nats; logits [B, N], labels [B].

    It uses gather instead of ``F.cross_entropy`` because gather can be batched by vmap.
    """
    return -F.log_softmax(logits, -1).gather(-1, labels[:, None]).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of sigmoid(logit), the probability of label 1; logits [B, 1], labels [B] in 0..1.

    It is the softplus of the logit of the other label, since the logarithm of a saturated sigmoid is inaccurate.
    """
    towards_other = (1 - 2 * labels) * logits[:, 0]
    return F.softplus(towards_other).mean()


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference; outputs and targets [B, 1], or [B, D] for D numbers to predict."""
    return (outputs - targets).square().mean()


def _unless_diverged(metric: Tensor, outputs: Tensor, loss: Tensor) -> Tensor:
    """The metric, or nan if outputs or loss are not finite: the task diverged, and argmax takes nan for class 0."""
    return torch.where(outputs.isfinite().all() & loss.isfinite(), metric, torch.nan)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is that of the label, 0..1; logits [B, N], labels [B]. nan: diverged."""
    share = (logits.argmax(-1) == labels).to(logits.dtype).mean()
    return _unless_diverged(share, logits, cross_entropy(logits, labels))


def binary_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples, 0..1, whose logit is positive for label 1 and not positive for label 0. nan: diverged.

    Args:
        logits: [B, 1].
        labels: [B], 0 or 1.
    """
    share = ((logits[:, 0] > 0) == (labels == 1)).to(logits.dtype).mean()
    return _unless_diverged(share, logits, binary_cross_entropy(logits, labels))


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference as a metric; outputs and targets [B, D]. nan: diverged."""
    loss = mean_squared_error(outputs, targets)
    return _unless_diverged(loss, outputs, loss)


@dataclass(frozen=True, kw_only=True)
class Supervised(Problem):
    """Problem whose tasks are labelled examples (``Episode``).

    Attributes:
        forward: (params, x [B, ...]) -> outputs [B, outputs].
        loss: (outputs, y) -> scalar to minimise.
        judge: (outputs, y) -> metric, a scalar; nan for a task that diverged (outputs or loss not finite).
        metric: description of the metric.
        way: N for classification, 1 for regression.
        outputs: width of a network's last layer for one task.
        fixed_labels: whether an output stands for the same class in every task.
        support: how the method uses support sets.
        unit: (name, size) of an error of 1, for a number to predict whose unit is known: the square root of the metric
            times ``size`` is stated under ``name``.
    """

    forward: Callable[[Params, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], Tensor]
    metric: Metric
    way: int
    outputs: int
    fixed_labels: bool
    support: Support = EVERYTHING
    unit: tuple[str, float] | None = None

    def restated(self, metric: Tensor) -> Metrics:
        return {self.unit[0]: metric.sqrt() * self.unit[1]} if self.unit else {}

    def seen_by(self, support: Support) -> Supervised:
        return replace(self, support=support)

    def support_set(self, task: Episode, k: int) -> tuple[Tensor, Tensor]:
        """Return the support examples of inner step k and their labels: (x [B, ...], y [B, ...])."""
        x, y = task.support_x, task.support_y
        if self.support.batch is None:
            return x, y
        seen = minibatch(task.key, len(x), min(self.support.batch, len(x)), k)
        return x[seen], y[seen]

    def inner_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """Loss of the inner loop on support examples x [B, ...], y [B, ...], with its reduction; a scalar."""
        loss = self.loss(self.forward(params, x), y)
        return self.way * loss if self.support.reduction is Reduction.sum_over_shot else loss

    def judged(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Metrics]:
        """Compute (loss, {"loss", metric}) of outputs [B, outputs] for labels or targets y [B, ...]."""
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
        """Predict the query set, [N*Q, outputs], with the batch norm statistics of ``norm`` (not ``all``)."""
        return predict(self.forward, params, task.support_x, task.query_x, norm)

    def measure(self, params: Params, task: Episode, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        return self.measured([self.predict(params, task, norm) for norm in norms], task.query_y)

    def measured(self, outputs: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (metric, loss), each [len(outputs)], of several outputs for the same labels or targets."""
        metrics, losses = ([of(o, y) for o in outputs] for of in (self.judge, self.loss))
        return torch.stack(metrics), torch.stack(losses)


class Unjudged(Supervised):
    """The same problem, of which a measurement returns the outputs, [len(outputs), B, outputs], and the labels [B]."""

    def measured(self, outputs: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([*outputs]), y


def supervised(problem: Problem, who: str) -> Supervised:
    """Narrow the type of a problem, for methods that need labelled examples.

    Args:
        problem: the problem.
        who: the method, for the message, e.g. ``algo=mann``.

    Returns:
        The same problem.

    Raises:
        UserError: the problem is not ``Supervised``.
    """
    if not isinstance(problem, Supervised):
        raise UserError(f"{who}: works on labelled examples, which this data set's tasks have none of")
    return problem


def one_output_a_class(problem: Problem, who: str) -> Supervised:
    """Return the problem, for methods that need labelled examples and one output for each class.

    Args:
        problem: the problem of the tasks.
        who: the setting that needs it, for the message.

    Raises:
        UserError: the tasks are of another kind.
    """
    tasks = supervised(problem, who)
    if tasks.way < 2 or tasks.outputs < 2:
        raise UserError(f"dataset: {who} needs tasks with one output for each class")
    return tasks


Forward = Callable[[Params, Tensor], Tensor]


def classification(forward: Forward, way: int, fixed_labels: bool = False) -> Supervised:
    """Make the problem of ``way`` classes with one output for each."""
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
    """Make the problem of two classes with one output, whose sign chooses the class."""
    return Supervised(
        forward=forward,
        loss=binary_cross_entropy,
        judge=binary_accuracy,
        metric=ACCURACY,
        way=2,
        outputs=1,
        fixed_labels=True,
    )


def regression(
    forward: Forward, targets: int = 1, metric: Metric = SQUARED_ERROR, unit: tuple[str, float] | None = None
) -> Supervised:
    """Make the problem of predicting numbers, with the mean squared error as loss and metric.

    Args:
        forward: (params, x [B, ...]) -> outputs [B, targets].
        targets: how many numbers are predicted.
        metric: a description of the mean squared error.
        unit: as in ``Supervised``.
    """
    return Supervised(
        forward=forward,
        loss=mean_squared_error,
        judge=squared_error,
        metric=metric,
        way=1,
        outputs=targets,
        fixed_labels=True,
        unit=unit,
    )
