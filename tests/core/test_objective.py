from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.core.episode import Episode
from metarun.core.inner import minibatch
from metarun.core.objective import (
    Supervised,
    accuracy,
    binary,
    binary_accuracy,
    binary_cross_entropy,
    classification,
    cross_entropy,
    regression,
)
from metarun.core.problem import Reduction, Support
from metarun.core.tree import Params


def test_cross_entropy_is_torchs() -> None:
    logits, labels = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    assert cross_entropy(logits, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-12)


def test_accuracy_counts_hits() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [5.0, 1.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])).item() == 0.75


def task(x: Tensor, y: Tensor) -> Episode:
    """One of these examples, for support as for query."""
    return Episode(x, y, x, y, torch.tensor(0))


def descended(problem: Supervised, params: Params, x: Tensor, y: Tensor, reduction: Reduction) -> float:
    return problem.seen_by(Support(reduction=reduction)).support_loss(params, task(x, y), 0).item()


def test_sum_over_shot_is_way_times_the_mean() -> None:
    """sum(CE) / K over N*K examples is N times their mean (the reduction of the code published with MAML)."""
    way, shot = 5, 3
    problem = classification(lambda params, x: x @ params["w"], way)
    params = {"w": torch.randn(8, way, dtype=torch.float64)}
    x, y = torch.randn(way * shot, 8, dtype=torch.float64), torch.arange(way).repeat_interleave(shot)
    summed = F.cross_entropy(x @ params["w"], y, reduction="sum") / shot
    for reduction, want in ((Reduction.sum_over_shot, summed), (Reduction.mean, summed / way)):
        assert descended(problem, params, x, y, reduction) == pytest.approx(want.item(), rel=1e-12)


def test_an_inner_step_sees_a_batch_and_never_more_than_there_is() -> None:
    x, y = torch.arange(6.0)[:, None], torch.zeros(6, 1)
    seen = regression(lambda params, x: x).seen_by(Support(batch=4))
    for k in range(4):
        batch = minibatch(torch.tensor(0), 6, 4, k)
        assert seen.support_loss({}, task(x, y), k) == batch.double().square().mean()
        assert seen.support_metrics({}, task(x, y), k)["mse"] == seen.support_loss({}, task(x, y), k)
    whole = regression(lambda params, x: x).seen_by(Support(batch=7))
    assert whole.support_loss({}, task(x, y), 1) == 55 / 6


def test_regression_reductions_agree() -> None:
    problem = regression(lambda params, x: params["a"] * x)
    params, x = {"a": torch.tensor(2.0)}, torch.ones(10, 1)
    for reduction in Reduction:
        assert descended(problem, params, x, torch.zeros(10, 1), reduction) == 4.0


PROBLEMS = {
    "classification": (classification(lambda params, x: x, 3), 3, torch.tensor([0, 1, 2, 0])),
    "binary": (binary(lambda params, x: x), 1, torch.tensor([0, 1, 1, 0])),
    "regression": (regression(lambda params, x: x), 1, torch.zeros(4, 1)),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf, 3e38])  # the last: finite, but its loss is not
def test_a_task_with_outputs_or_loss_that_are_not_finite_has_no_metric(name: str, damage: float) -> None:
    """argmax of nan is label 0, which would count as chance. In each of a batch of tasks, as evaluation measures."""
    problem, width, labels = PROBLEMS[name]
    outputs = torch.zeros(3, 4, width)
    outputs[1, 2] = damage if damage != 3e38 else torch.tensor([damage, -damage, -damage])[:width]
    metric = torch.func.vmap(problem.judge, in_dims=(0, None))(outputs, labels)
    assert metric.isnan().tolist() == [False, name != "binary" or damage != 3e38, False]
    _, metrics = problem.query_loss({}, task(outputs[1], labels))
    assert metrics[problem.metric.name].isnan() == metric[1].isnan()


def test_binary_cross_entropy_is_torchs() -> None:
    logits, labels = 3 * torch.randn(40, 1, dtype=torch.float64), torch.arange(40) % 2
    want = F.binary_cross_entropy_with_logits(logits[:, 0], labels.double())
    assert binary_cross_entropy(logits, labels).item() == pytest.approx(want.item(), rel=1e-12)


def test_binary_accuracy_counts_hits() -> None:
    logits = torch.tensor([[2.0], [-1.0], [0.5], [-3.0], [0.0]])
    assert binary_accuracy(logits, torch.tensor([1, 0, 0, 1, 0])).item() == pytest.approx(0.6)


def test_binary_loss_and_its_derivatives_stay_finite_for_any_logit() -> None:
    def loss(logit: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy(logit[None, None], label[None])

    logits = torch.tensor([-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4])
    for label in (0, 1):
        labels = torch.full((7,), label)
        first = torch.func.grad(loss)
        for of in (loss, first, torch.func.grad(first)):
            assert torch.func.vmap(of)(logits, labels).isfinite().all()
        slopes = torch.func.vmap(first)(logits, labels)
        assert slopes.tolist() == pytest.approx([-label] * 3 + [0.5 - label] + [1 - label] * 3, abs=1e-12)


def test_binary_loss_has_the_second_derivative_of_finite_differences() -> None:
    """Of each of a batch of tasks, as meta-gradients need it: grad of grad within vmap."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 9, 3), (4, 3, 1)))
    labels = torch.arange(9) % 2
    problem = binary(lambda params, x: x @ params["w"])

    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return problem.query_loss({"w": w}, task(x, labels))[0]

    slope = torch.func.grad(loss)
    curvature = torch.func.vmap(torch.func.hessian(loss))(w, x)
    assert curvature.shape == (4, 3, 1, 3, 1)
    for t in range(4):
        for i in range(3):
            step = torch.zeros(3, 1, dtype=torch.float64)
            step[i] = 1e-5
            difference = (slope(w[t] + step, x[t]) - slope(w[t] - step, x[t])) / 2e-5
            torch.testing.assert_close(curvature[t, :, :, i, 0], difference, rtol=1e-7, atol=1e-9)


def test_binary_sum_over_shot_is_twice_the_mean() -> None:
    problem = binary(lambda params, x: x @ params["w"])
    params, x = {"w": torch.ones(2, 1)}, torch.randn(6, 2)
    summed, mean = (
        descended(problem, params, x, torch.arange(6) % 2, r) for r in (Reduction.sum_over_shot, Reduction.mean)
    )
    assert summed == pytest.approx(2 * mean)
