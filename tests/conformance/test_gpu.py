"""On a CUDA device (``pytest -m gpu``): the same tasks, the same gradients; the CPU's versions run by default."""

from __future__ import annotations

import pytest
import torch

from metarun import config
from metarun.datasets.base import Split
from metarun.runs.setup import build
from metarun.verify import check

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]


@pytest.mark.parametrize("dataset", ["glyphs", "sinusoid", "gaussians"])
def test_a_task_is_the_same_on_every_device(dataset: str) -> None:
    ours, theirs = (
        build(config.compose([f"dataset={dataset}", f"device={device}"])[0]).tasks.sample(
            Split.test, 0, range(9), 5, 1, 5
        )
        for device in ("cpu", "cuda")
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.cpu())


def test_gradients_are_right() -> None:
    algorithms = {name: config.compose([f"algo={name}"])[0].algo for name in config.choices("algo")}
    rows = list(check.rows(algorithms, torch.device("cuda")))
    assert all(row.right for row in rows), check.table(rows)
