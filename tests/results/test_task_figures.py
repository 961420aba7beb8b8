from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.tri import TriContourSet

from metarun.core.episode import Episode, TaskFigure
from metarun.core.watching import Watched
from metarun.results import task_figures


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
    figure = task_figures.points(*two_tasks(query=6))
    assert len(figure.axes) == 4
    for i, axes in enumerate(figure.axes):
        drawn: list[Any] = list(axes.collections)
        queries = [c for c in drawn if len(c.get_offsets()) == 6]
        rings = {to_hex(ring) for c in queries for ring in c.get_edgecolor()}
        assert rings == {task_figures.BAD if i < 2 else task_figures.GOOD}
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
    lines = [len(axes.collections) for axes in task_figures.points(episodes, outputs.abs()).axes]
    assert lines == [4] * 4, "two classes of support and of query points, and no line"
    assert len(task_figures.points(episodes, outputs).axes[0].collections) == (4 if query == 1 else 5)


def three_classes(damaged: bool = False) -> tuple[Episode, torch.Tensor]:
    """Three sectors of the plane; before adapting all is called class 0."""
    angles = 2 * torch.pi * torch.arange(3) / 3
    centres = torch.stack([angles.cos(), angles.sin()], 1)
    y = torch.arange(3).repeat_interleave(8).expand(1, -1)
    x = centres[y] + 0.4 * torch.randn(1, 24, 2, generator=torch.Generator().manual_seed(0))
    after = x @ centres.T
    before = torch.tensor([1.0, 0.0, 0.0]).expand_as(after)
    outputs = torch.stack([before, after], 1)
    if damaged:
        outputs[0, 1, :4] = torch.nan
    return Episode(x[:, ::4], y[:, ::4], x, y, torch.arange(1)), outputs


def test_any_number_of_classes_in_the_plane() -> None:
    """Right is what argmax says, each class has a colour, and borders lie where two outputs are the same."""
    episodes, outputs = three_classes()
    before, after = task_figures.points(episodes, outputs).axes
    assert before.get_title() == "before adapting: 8 of 24"
    hits = int((outputs[0, 1].argmax(-1) == episodes.query_y[0]).sum())
    assert after.get_title() == f"after adapting: {hits} of 24" and hits > 16
    drawn: list[Any] = list(after.collections)
    fills = {to_hex(c.get_facecolor()[0]) for c in drawn if not isinstance(c, TriContourSet)}
    assert fills == {to_hex(colour) for colour in task_figures.CLASSES[:3]}
    borders = [c for c in after.collections if isinstance(c, TriContourSet)]
    assert len(borders) == 3 and not any(isinstance(c, TriContourSet) for c in before.collections)
    damaged = task_figures.points(*three_classes(damaged=True)).axes[1]
    assert (
        damaged.get_title()
        == f"after adapting: {int((outputs[0, 1, 4:].argmax(-1) == episodes.query_y[0, 4:]).sum())} of 24"
    )


def test_two_outputs_draw_the_picture_of_one() -> None:
    episodes, outputs = two_tasks(query=6)
    one, two = (task_figures.points(episodes, o).axes for o in (outputs, torch.cat([-outputs, outputs], -1)))
    for a, b in zip(one, two, strict=True):
        assert a.get_title() == b.get_title() and len(a.collections) == len(b.collections)
        lines = [[c for c in axes.collections if isinstance(c, TriContourSet)] for axes in (a, b)]
        for first, second in zip(*lines, strict=True):
            np.testing.assert_allclose(first.get_paths()[0].vertices, second.get_paths()[0].vertices, atol=1e-6)


@pytest.mark.parametrize(("ink", "colours"), [(False, "gray"), (True, "gray_r")])
def test_photographs_are_no_negatives_and_rows_have_names(ink: bool, colours: str) -> None:
    label = torch.arange(2).expand(1, -1)
    x = torch.rand(1, 2, 1, 4, 4)
    episodes = Episode(x, label, x, label, torch.arange(1))
    outputs = torch.tensor([[[1.0, 0.0], [torch.nan, 0.0]]])[:, None]
    names = [["Arla-Ecological-Medium-Fat-Milk-in-a-carton", "cost $1$"]]
    figure = task_figures.images(episodes, outputs, ink, names)
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 4 and {axes.images[0].get_cmap().name for axes in drawn} == {colours}
    assert drawn[0].images[0].get_clim() == (0, 1)
    first, second = (axes.get_ylabel() for axes in (drawn[0], drawn[2]))
    assert first == "0: Arla-\nEcological-\nMedium-Fat…" and second == "1: cost $1$"
    assert [text.get_text() for axes in drawn for text in axes.texts] == ["none"], "nan is no prediction of class 0"
    figure.canvas.draw()


def test_a_fit_that_diverged_leaves_the_picture() -> None:
    x = torch.linspace(-1, 1, 20)[None, :, None]
    outputs = torch.stack([0 * x[0], 1e14 * x[0], torch.full_like(x[0], torch.nan)])[None]
    figure = task_figures.regression(Episode(x, x, x, x, torch.arange(1)), outputs)
    low, high = figure.axes[0].get_ylim()
    assert -4 < low < -1 and 1 < high < 4 and [t.get_text() for t in figure.axes[0].texts] == ["diverged"]


@pytest.mark.parametrize("kind", [TaskFigure.paths, TaskFigure.traces])
def test_episodes_are_drawn_with_and_without_a_target(kind: TaskFigure) -> None:
    numbers = 2 if kind is TaskFigure.paths else 1
    values = torch.randn(3, 2, 9, numbers)
    values[0, :, 5:] = torch.nan  # ended
    for target in (torch.zeros(3, numbers), None):
        watched = [Watched("velocity", values + k, target, torch.tensor([-3.0, -2.0, -1.0])) for k in range(7)]
        figure = task_figures.episodes(kind, watched)
        assert figure is not None
        assert len(figure.axes) == (3 * 5 if kind is TaskFigure.paths else 3), "steps 0, 1, 2, 3 and the last"
        stars = [
            of for axes in figure.axes for of in axes.lines if of.get_marker() == "*" or of.get_label() == "target"
        ]
        assert bool(stars) == (target is not None)
    assert task_figures.episodes(kind, []) is None
