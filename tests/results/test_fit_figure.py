from __future__ import annotations

from typing import Any

import torch

from metarun.core.episode import Episode, TaskFigure
from metarun.results import task_figures


def drawn(axes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The points of a panel before and after adapting, each [Q, 2]."""
    before, after = (torch.tensor(points.get_offsets().tolist()) for points in axes.collections)
    return before, after


def test_panels_are_tasks_and_numbers_and_points_are_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.randn(2, n, 2, generator=generator) for n in (3, 6))
    episodes = Episode(support, support, query, query, torch.arange(2))
    outputs = torch.stack([torch.zeros_like(query), query + 0.1, query + 0.01], 1)  # [T, S+1, Q, D]
    names = [["M1", "power", "heat"], ["M2", "power", "heat"]]
    figure = task_figures.draw(TaskFigure.fit, episodes, outputs, False, names)
    assert len(figure.axes) == 4
    for row in range(2):
        for t in range(2):
            axes = figure.axes[2 * row + t]
            before, after = drawn(axes)
            torch.testing.assert_close(before, torch.stack([query[t, :, row], torch.zeros(6)], 1))
            torch.testing.assert_close(after, torch.stack([query[t, :, row], query[t, :, row] + 0.01], 1))
            assert axes.get_title() == (f"M{t + 1}" if row == 0 else "")
            assert axes.get_xlim() == axes.get_ylim() == figure.axes[2 * row].get_xlim()
    assert [figure.axes[i].get_ylabel() for i in (0, 2)] == ["power, predicted", "heat, predicted"]


def test_a_fit_that_diverged_lies_on_the_edge_and_says_so() -> None:
    y = torch.tensor([[[0.0], [1.0], [2.0]]])
    outputs = torch.tensor([0.0, 0.0, 0.0, torch.nan, torch.inf, -1e9]).reshape(1, 2, 3, 1)
    figure = task_figures.draw(TaskFigure.fit, Episode(y, y, y, y, torch.arange(1)), outputs, False, None)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    torch.testing.assert_close(drawn(axes)[1][:, 1], torch.tensor([high, high, low], dtype=torch.float32))
    assert "diverged" in [text.get_text() for text in axes.texts]


def test_a_long_name_of_a_number_keeps_what_is_said_of_it() -> None:
    y = torch.tensor([[[0.0], [1.0], [2.0]]])
    names = [["M1", "Lagertemperatur [°C], normalised"]]
    episodes, outputs = Episode(y, y, y, y, torch.arange(1)), torch.stack([y, y], 1)
    figure = task_figures.draw(TaskFigure.fit, episodes, outputs, False, names)
    assert " ".join(figure.axes[0].get_ylabel().split()) == "Lagertemperatur [°C], normalised, predicted"
    assert max(map(len, figure.axes[0].get_ylabel().splitlines())) <= 34
