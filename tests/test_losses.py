from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from metarun import losses
from metarun.losses import Reduction


def test_cross_entropy_is_torchs() -> None:
    logits, labels = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    assert losses.cross_entropy(logits, labels).item() == pytest.approx(
        F.cross_entropy(logits, labels).item(), rel=1e-12
    )


def test_accuracy_counts_hits() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [5.0, 1.0]])
    assert losses.accuracy(logits, torch.tensor([0, 1, 1, 0])).item() == 0.75


def test_sum_over_shot_is_way_times_the_mean() -> None:
    """sum(CE) / K over N*K examples is N times their mean (the reduction of the code published with MAML)."""
    way, shot = 5, 3
    objective = losses.classification(lambda params, x: x @ params["w"], way)
    params = {"w": torch.randn(8, way, dtype=torch.float64)}
    x, y = torch.randn(way * shot, 8, dtype=torch.float64), torch.arange(way).repeat_interleave(shot)
    summed = F.cross_entropy(x @ params["w"], y, reduction="sum") / shot
    assert objective.inner_loss(params, x, y, Reduction.sum_over_shot).item() == pytest.approx(summed.item(), rel=1e-12)
    assert objective.inner_loss(params, x, y, Reduction.mean).item() == pytest.approx(summed.item() / way, rel=1e-12)


def test_regression_reductions_agree() -> None:
    objective = losses.regression(lambda params, x: params["a"] * x)
    params, x = {"a": torch.tensor(2.0)}, torch.ones(10, 1)
    for reduction in Reduction:
        assert objective.inner_loss(params, x, torch.zeros(10, 1), reduction).item() == 4.0


def test_interval_over_tasks() -> None:
    values = torch.tensor([1.0, 0.0, 1.0, 1.0])
    mean, half = losses.mean_and_interval(values)
    assert mean == 0.75
    assert half == pytest.approx(1.96 * 0.5 / 2)  # s = 0.5, n = 4
    assert math.isnan(losses.mean_and_interval(values[:1])[1])
