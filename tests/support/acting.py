"""Tasks made by acting, for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from metarun import config
from metarun.datasets.acting import ActingTasks

WORDS = ["dataset=navigation", "algo=maml", "algo.outer_optimizer=adam"]


def navigation(*overrides: str) -> ActingTasks:
    """Goals in the plane."""
    tasks = config.compose([*WORDS, *overrides])[0].dataset.load(Path("none"), torch.device("cpu"))
    assert isinstance(tasks, ActingTasks)
    return tasks
