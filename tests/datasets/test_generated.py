from __future__ import annotations

import pytest
import torch

from metarun import config
from metarun.core.objective import supervised
from metarun.datasets.base import Split
from metarun.datasets.generated import Generated
from metarun.runs.setup import build

CPU = torch.device("cpu")


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", config.choices("dataset"))
def test_shapes_outputs_and_labels_are_those_of_the_data_set(name: str) -> None:
    """And its loss and metric take them."""
    x = config.compose([f"dataset={name}"])[0]
    if not x.dataset.labelled:
        pytest.skip("noise never stands in for its tasks")
    tasks = Generated(x.dataset, CPU)
    classes = x.way if x.dataset.has_way else 1
    episode = tasks.sample(Split.train, 0, range(3), x.way, 2, 4)
    assert episode.support_x.shape == (3, 2 * classes, *x.dataset.input_shape)
    assert episode.query_x.shape == (3, 4 * classes, *x.dataset.input_shape)
    outputs = torch.randn(4 * classes, tasks.outputs(x.way))
    problem = supervised(tasks.problem(lambda params, x: x, x.way), "")
    for value in (problem.loss(outputs, episode.query_y[0]), problem.judge(outputs, episode.query_y[0])):
        assert value.shape == () and value.isfinite()
    if x.dataset.has_way:
        assert episode.query_y[0].unique().tolist() == list(range(x.way))


@pytest.mark.parametrize("name", ["glyphs", "sinusoid", "gaussians"])  # those that need no data
def test_outputs_and_problem_are_the_data_sets_own(name: str) -> None:
    x = config.compose([f"dataset={name}"])[0]
    bench, generated = build(x), Generated(x.dataset, CPU)
    ours, theirs = generated.problem(supervised(bench.problem, "").forward, x.way), bench.problem
    assert ours == theirs and generated.outputs(x.way) == bench.tasks.outputs(x.way)
    real = bench.tasks.sample(Split.train, 0, range(2), x.way, 1, 2)
    made = generated.sample(Split.train, 0, range(2), x.way, 1, 2)
    for a, b in zip(real, made, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype


@pytest.mark.parametrize(
    ("words", "fixed"),
    [
        ("dataset=mnist dataset.split=digits", False),
        ("dataset=mnist dataset.split=images way=10", True),
        ("dataset=image_folder dataset.split=shares", False),
        ("dataset=image_folder dataset.split=images_in_folders", True),
    ],
)
def test_labels_are_as_fixed_as_the_data_sets_own(words: str, fixed: bool) -> None:
    """Without the data; ``setup.build`` compares it with the problem that they make."""
    x = config.compose(words.split())[0]
    problem = supervised(Generated(x.dataset, CPU).problem(lambda params, x: x, x.way), "")
    assert problem.fixed_labels == x.dataset.fixed_labels == fixed
