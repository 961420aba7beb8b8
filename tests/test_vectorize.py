from __future__ import annotations

import pytest
import torch
from torch import nn

from metarun.episode import Episode
from metarun.vectorize import Vectorize, concatenate, over_tasks


def episodes(tasks: int) -> Episode:
    x = torch.arange(tasks * 2.0).reshape(tasks, 2)
    return Episode(x, x, x, x, torch.arange(tasks))


@pytest.mark.parametrize("how", [Vectorize.vmap, Vectorize.loop])
@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7])  # some divide five tasks, some do not
def test_every_chunk_size_gives_the_same(how: Vectorize, chunk: int | None) -> None:
    chunks = list(over_tasks(lambda task: {"s": task.support_x.sum(), "k": task.key}, episodes(5), how, chunk))
    assert all(len(part["k"]) <= (chunk or 5) for part in chunks)
    joined = concatenate(chunks)
    assert joined["k"].tolist() == list(range(5))
    assert joined["s"].tolist() == episodes(5).support_x.sum(1).tolist()


def test_auto_runs_large_convolutions_on_a_cpu_one_by_one() -> None:
    conv, mlp = nn.Sequential(nn.Conv2d(1, 1, 3)), nn.Sequential(nn.Linear(1, 1))
    assert Vectorize.auto.resolve(torch.device("cpu"), nn.Conv2d(1, 1, 3, stride=2)) is Vectorize.vmap
    assert Vectorize.auto.resolve(torch.device("cpu"), conv) is Vectorize.loop
    assert Vectorize.auto.resolve(torch.device("cpu"), mlp) is Vectorize.vmap
    assert Vectorize.auto.resolve(torch.device("cuda"), conv) is Vectorize.vmap
    assert Vectorize.auto.resolve(torch.device("cuda"), nn.LSTM(1, 1)) is Vectorize.loop
    assert Vectorize.vmap.resolve(torch.device("cpu"), conv) is Vectorize.vmap
