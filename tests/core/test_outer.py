from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from metarun.core.meta import Meta
from metarun.core.outer import OuterOptimizer, OuterSettings, Schedule
from metarun.core.outer_step import Nothing

SETTINGS = OuterSettings(
    outer_optimizer=OuterOptimizer.sgd,
    outer_lr=1.0,
    outer_eps=1e-8,
    outer_schedule=Schedule.none,
    clip_value=None,
    clip_norm=None,
)


def step(grad: list[float], progress: float = 0.0, **settings: Any) -> tuple[list[float], float]:
    """Where one step takes parameters from 0, and the norm that it returns; a network's and a step size's."""
    meta = Meta.of({"w": torch.zeros(1)}, step_sizes={"w": torch.zeros(1)})
    first, second = torch.tensor(grad).split(1)
    outer = dataclasses.replace(SETTINGS, **settings).outer_step(meta)
    norm = outer.step(Meta.of({"w": first}, step_sizes={"w": second}), progress, Nothing())["grad_norm"]
    return torch.cat([meta.model["w"], meta.step_sizes["w"]]).tolist(), norm.item()


def test_sgd_moves_against_the_gradient() -> None:
    assert step([3.0, 4.0]) == ([-3.0, -4.0], 5.0)


def test_clipping_by_value_and_by_norm() -> None:
    assert step([3.0, -4.0], clip_value=3.5) == ([-3.0, 3.5], 5.0)
    moved, norm = step([3.0, 4.0], clip_norm=1.0)
    assert moved == pytest.approx([-0.6, -0.8]) and norm == 5.0
    assert step([0.3, 0.4], clip_norm=1.0)[0] == pytest.approx([-0.3, -0.4])
    assert step([0.0, 0.0], clip_norm=1.0)[0] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("schedule", "left"), [(Schedule.none, [1, 1, 1]), (Schedule.cosine, [1, 0.5, 0]), (Schedule.linear, [1, 0.5, 0])]
)
def test_schedules(schedule: Schedule, left: list[float]) -> None:
    for progress, factor in zip((0.0, 0.5, 1.0), left, strict=True):
        assert step([1.0, 0.0], progress, outer_schedule=schedule)[0] == pytest.approx([-factor, 0.0], abs=1e-7)


def test_adam_is_torchs() -> None:
    moved, _ = step([3.0, -4.0], outer_optimizer=OuterOptimizer.adam, outer_lr=0.1)
    assert moved == pytest.approx([-0.1, 0.1], rel=1e-5)


def test_a_large_epsilon_makes_adam_follow_small_gradients_like_sgd() -> None:
    moved, _ = step([1e-5, -2e-5], outer_optimizer=OuterOptimizer.adam, outer_lr=0.1, outer_eps=1e-1)
    assert moved == pytest.approx([-1e-5, 2e-5], rel=1e-3)
