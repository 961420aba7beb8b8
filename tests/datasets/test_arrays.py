from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarun import config
from metarun.core.episode import TaskFigure
from metarun.datasets.base import Split
from metarun.datasets.sampler import ClassPool
from metarun.datasets.task_pool import TaskPool
from metarun.errors import UserError
from metarun.runs.setup import build
from tests.support.own_tables import arrays

CPU = torch.device("cpu")
SERIES = ["dataset=arrays", "dataset.path=series.npz", "dataset.shares=[0.34,0.33,0.33]", "way=2"]


def load(folder: Path, words: list[str]) -> Any:
    return config.compose(words)[0].dataset.load(folder, CPU)


def test_tasks_are_classes_of_series_normalised_by_channel(tmp_path: Path) -> None:
    file = np.load(arrays(tmp_path / "series.npz"))
    tasks = load(tmp_path, SERIES)
    assert isinstance(tasks, ClassPool) and tasks.input_shape == (2, 9) and tasks.figure is TaskFigure.none
    trained = [int(name) for name in tasks.class_names(Split.train) or ()]
    rows = np.isin(file["y"], trained)
    mean, deviation = (f(file["x"][rows].astype(float), (0, 2), keepdims=True) for f in (np.mean, np.std))
    x = ((file["x"] - mean) / deviation).astype(np.float32)
    episode = tasks.sample(Split.test, 0, range(6), 2, 3, 4)
    names = tasks.drawn(Split.test, 0, range(6), 2)
    for t in range(6):
        for example, label in zip(episode.query_x[t].numpy(), episode.query_y[t].tolist(), strict=True):
            (row,) = np.flatnonzero(np.isclose(x, example, atol=1e-5).all((1, 2)))
            assert str(file["y"][row]) == names[t][label]


def test_tasks_of_patients_predict_one_number_or_several(tmp_path: Path) -> None:
    arrays(tmp_path / "series.npz")
    words = [word for word in SERIES if word != "way=2"]
    tasks = load(tmp_path, [*words, "dataset.predict=numbers", "dataset.y=level", "dataset.task=patient"])
    assert isinstance(tasks, TaskPool) and tasks.names == ["level[0]", "level[1]"] and tasks.figure is TaskFigure.fit
    assert sum(len(tasks.class_names(split)) for split in Split) == 12
    assert tasks.sample(Split.train, 0, range(2), 5, 3, 2).query_y.shape == (2, 2, 2)


def test_images_of_three_channels_have_a_figure_and_a_convolution(tmp_path: Path) -> None:
    arrays(tmp_path / "series.npz", (3, 16, 16), each=4)
    words = [*SERIES, f"data_root={tmp_path}", "shot=1", "query=2", "device.compile=false"]
    bench = build(config.compose([*words, "model=conv4", "model.filters=2"])[0])
    assert bench.tasks.figure is TaskFigure.images and bench.tasks.input_shape == (3, 16, 16)


def test_series_go_with_an_mlp_and_not_with_images_networks(tmp_path: Path) -> None:
    arrays(tmp_path / "series.npz")
    words = [*SERIES, f"data_root={tmp_path}", "shot=1", "query=2"]
    assert build(config.compose(words)[0]).module(torch.zeros(4, 2, 9)).shape == (4, 2)
    for model in ("conv4", "resnet18"):
        with pytest.raises(UserError, match=rf"model={model} needs images.*\(2, 9\); use model=mlp"):
            build(config.compose([*words, f"model={model}"])[0])


FINE = {"x": np.random.default_rng(0).normal(size=(40, 5)), "y": np.arange(40) % 4, "task": np.arange(40) % 8}
NAN = FINE["x"].copy()
NAN[16, 3] = np.nan
NUMBERS = ["dataset.predict=numbers", "dataset.task=task"]
REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {  # name -> arrays, words, message
    "no array": ({}, ["dataset.x=spectra"], "dataset.x=spectra: own.npz has no such array; it has x, y, task"),
    "not finite": ({"x": NAN}, [], r"x\[16, 3\] is nan, and must be finite"),
    "texts": ({"x": np.full((40, 2), "a")}, [], "dataset.x=x: is of type <U1, and must be numbers"),
    "complex": ({"x": np.zeros((40, 2), complex)}, [], "dataset.x=x: is of type complex128"),
    "one axis": ({"x": np.zeros(40)}, [], r"dataset.x=x: the array has shape \[40\], not \[rows, ...\]"),
    "nothing in it": ({"x": np.zeros((40, 0))}, [], r"dataset.x=x: the array has shape \[40, 0\]"),
    "rows": ({"y": np.arange(41) % 4}, [], "numbers of rows: x 40, y 41"),
    "tasks of two axes": ({"task": np.zeros((40, 2))}, NUMBERS, r"dataset.task=task: the array has shape \[40, 2\]"),
    "classes of two axes": ({"y": np.zeros((40, 2))}, [], "dataset.y=y: has 2 columns, and classes are one"),
    "classes that are no names": ({"y": np.arange(40) / 7}, [], "column y: 0.14.* whole number.*predict=numbers"),
    "numbers that are none": ({"y": np.full(40, "a")}, NUMBERS, "column y: 'a' is no number.*predict=classes"),
    "no rows": ({name: of[:0] for name, of in FINE.items()}, [], "has no rows"),
    "twice": ({}, ["dataset.task=y"], "dataset.y=y: must be another array: it is dataset.task too"),
    "constant": ({"x": np.ones((40, 5))}, ["dataset.normalise=channel"], "every x has the same value, 1,"),
    "alike": ({"x": np.ones((40, 5))}, ["dataset.normalise=none"], "its 40 rows are all alike"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_tasks_is_refused(name: str, tmp_path: Path) -> None:
    others, words, said = REFUSED[name]
    np.savez(tmp_path / "own.npz", **{**FINE, **others})
    with pytest.raises(UserError, match=said):
        load(tmp_path, ["dataset=arrays", "dataset.path=own.npz", "dataset.shares=[0.5,0.25,0.25]", *words])
