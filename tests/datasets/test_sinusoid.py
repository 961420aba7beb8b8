from __future__ import annotations

import math
from pathlib import Path

import torch

from metarun import config
from metarun.datasets.base import Split
from metarun.datasets.sinusoid import Waves


def waves() -> Waves:
    dataset = config.compose(["dataset=sinusoid"])[0].dataset
    tasks = dataset.load(Path("unused"), torch.device("cpu"))
    assert isinstance(tasks, Waves)
    return tasks


def test_points_lie_on_the_tasks_wave() -> None:
    episode = waves().sample(Split.train, 0, range(100), 5, 10, 7)
    amplitude, phase = waves().waves(Split.train, 0, range(100))
    assert episode.support_x.shape == (100, 10, 1) and episode.query_y.shape == (100, 7, 1)
    for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
        torch.testing.assert_close(y, amplitude * torch.sin(x - phase))


def test_ranges_are_the_papers() -> None:
    amplitude, phase = waves().waves(Split.test, 0, range(4000))
    x = waves().sample(Split.test, 0, range(400), 5, 10, 10).query_x
    for values, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, math.pi), (x, -5.0, 5.0)):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high


def test_tasks_are_functions_of_their_index_and_support_does_not_hang_on_query() -> None:
    whole = waves().sample(Split.val, 1, range(10), 5, 10, 10)
    part = waves().sample(Split.val, 1, range(4, 6), 5, 10, 300)
    assert torch.equal(part.support_x, whole.support_x[4:6]) and torch.equal(part.support_y, whole.support_y[4:6])
    assert not torch.equal(waves().sample(Split.test, 1, range(10), 5, 10, 10).support_x, whole.support_x)
