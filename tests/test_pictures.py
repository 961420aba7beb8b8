from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.tri import TriContourSet

from metarun import pictures
from metarun.episode import Episode


def two_tasks(query: int) -> tuple[Episode, torch.Tensor]:
    """Class 1 lies to the right of class 0; the output is the first coordinate, before adapting its negative."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(2)

    def examples(each: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = label.repeat_interleave(each).expand(2, -1)
        x = torch.rand(2, 2 * each, 2, generator=generator) + 0.1
        x[..., 0] *= 2 * y - 1
        return x, y

    episodes = Episode(*examples(3), *examples(query), torch.arange(2))
    outputs = episodes.query_x[:, None, :, :1] * torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)
    return episodes, outputs


def test_points_are_ringed_by_whether_they_are_right() -> None:
    figure = pictures.points(*two_tasks(query=6))
    assert len(figure.axes) == 4
    for i, axes in enumerate(figure.axes):
        drawn: list[Any] = list(axes.collections)
        queries = [c for c in drawn if len(c.get_offsets()) == 6]
        rings = {to_hex(ring) for c in queries for ring in c.get_edgecolor()}
        assert rings == {pictures.BAD if i < 2 else pictures.GOOD}
        assert axes.get_title() == ("before adapting: 0 of 12" if i < 2 else "after adapting: 12 of 12")
        (line,) = (c for c in drawn if isinstance(c, TriContourSet))
        assert np.abs(np.asarray(line.get_paths()[0].vertices)[:, 0]).max() < 1e-6, (
            "the output changes sign where x is 0"
        )
        left, right = axes.get_xlim()
        assert all(left < x < right for c in queries for x in c.get_offsets()[:, 0])


@pytest.mark.parametrize("query", [1, 4])
def test_points_with_nothing_to_draw_a_line_through(query: int) -> None:
    episodes, outputs = two_tasks(query)
    lines = [len(axes.collections) for axes in pictures.points(episodes, outputs.abs()).axes]
    assert lines == [4] * 4, "two classes of support and of query points, and no line"
    assert len(pictures.points(episodes, outputs).axes[0].collections) == (4 if query == 1 else 5)
