"""Runs on a user's own rows in use: raw rows go in, numbers of their column come out, as in the run's evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import metarun
from metarun.core.episode import Episode
from metarun.errors import UserError
from metarun.learner.learner import Learner
from tests.learner.support import drawn, evaluated, short_run, with_data
from tests.support.own_tables import NUMBERS, STATES, arrays, sensors, write

BY_PART = [*NUMBERS, "dataset.split=part", "shot=3", "query=3", "model.norm=true"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sensors.csv")
    return tmp_path


def by_hand(*columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of columns over the meta-training rows of ``sensors``, computed from its texts."""
    _, *rows = sensors()
    values = np.array([[float(row[i]) for i in columns] for row in rows if row[-1] == "train"])
    return values.mean(0), values.std(0)


def raw(normalised: Tensor, of: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    mean, deviation = of
    return normalised.double().numpy() * deviation + mean


def tried(learner: Learner) -> tuple[Episode, Tensor]:
    """Tasks of the run's own evaluation, as the network gets them, and its outputs for their queries."""
    setup = with_data(learner)
    tasks = drawn(setup)
    return tasks, evaluated(setup, learner, tasks)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("targets", ["[temperature]", "[temperature,power]"])
def test_numbers_are_scaled_as_the_run_scaled_them(folder: Path, targets: str) -> None:
    words = [f"dataset.target={targets}" if word.startswith("dataset.target") else word for word in BY_PART]
    learner = metarun.load(short_run(folder / "run", "data_root=.", *words), device="cpu")
    tasks, outputs = tried(learner)
    of_x, of_y = by_hand(1, 2), by_hand(*((3,) if targets == "[temperature]" else (3, 4)))
    x, y, queries = raw(tasks.support_x, of_x), raw(tasks.support_y, of_y), raw(tasks.query_x, of_x)
    want = raw(outputs, of_y)
    assert learner.way is None and learner.input_shape == (2,) and want.std() > 0
    (folder / "sensors.csv").unlink()  # the data need not be there any more
    learner = metarun.load(folder / "run", device="cpu")
    both, one = learner.adapt(x, y), learner.adapt(x[1].tolist(), y[1])
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-4 * float(of_y[1].max())}
    np.testing.assert_allclose(both.predict(queries), want, **close)
    np.testing.assert_allclose(one.predict(queries[1]), want[1], **close)
    frozen = one.module()
    for i in range(len(queries[1])):
        np.testing.assert_allclose(frozen(torch.from_numpy(queries[1, i : i + 1]))[0], want[1, i], **close)
    again = metarun.load_adapted(one.save(folder / "kept"), device="cpu")
    assert np.array_equal(again.predict(queries[1]), one.predict(queries[1])) and again.classes is None
    assert again.predict(queries[1]).dtype == np.float64
    np.testing.assert_allclose(one(queries[1], "transductive").shape, want[1].shape)


def test_large_numbers_that_differ_by_little_keep_their_digits(folder: Path) -> None:
    """Such as times in seconds since 1970, which float32 cannot tell apart."""
    header, *rows = sensors()
    late = [
        [row[0], f"{1.7e9 + float(row[1]) / 1000:.6f}", *row[2:3], f"{1e8 + float(row[3]):.3f}", *row[4:]]
        for row in rows
    ]
    write(folder / "sensors.csv", [header, *late])
    learner = metarun.load(short_run(folder / "run", "data_root=.", *BY_PART), device="cpu")
    some = [row for row in late if row[0] == "M08"]
    x = np.array([[float(row[1]), float(row[2])] for row in some])
    y = np.array([float(row[3]) for row in some])
    adapted, learned = learner.adapt(x[:3], y[:3]), learner.learned
    assert learned is not None and learned.x is not None and learned.y is not None
    network = adapted.networks[0](torch.from_numpy((x - learned.x.mean) / learned.x.deviation).float())
    want = network[:, 0].double().numpy() * learned.y.deviation + learned.y.mean
    np.testing.assert_allclose(adapted.predict(x)[:, 0], want, rtol=0, atol=1e-3)
    np.testing.assert_allclose(adapted.module()(torch.from_numpy(x))[:, 0], want, rtol=0, atol=1e-3)


def test_classes_keep_the_labels_of_the_run(folder: Path) -> None:
    learner = metarun.load(short_run(folder / "run", "data_root=.", *STATES, "shot=3", "query=3"), device="cpu")
    tasks, outputs = tried(learner)
    of_x, names = by_hand(1, 2), np.array(["idle", "run"])
    x, queries = raw(tasks.support_x[0], of_x), raw(tasks.query_x[0], of_x)
    adapted = learner.adapt(x, names[tasks.support_y[0]])
    assert adapted.classes == ["idle", "run"] and learner.way == 2
    assert torch.allclose(adapted(queries), outputs[0], atol=1e-4)
    assert list(adapted.predict(queries)) == list(names[outputs[0].argmax(-1)])
    for labels, said in (
        (["run", "off"] * 3, "y: class off is none of those of this run: idle, run"),
        (["run"] * 6, "y: class idle has no example"),
    ):
        with pytest.raises(UserError, match=said):
            learner.adapt(x, labels)


def test_classes_of_rows_may_be_new(folder: Path) -> None:
    """Tasks of classes, as with pictures: series of two channels."""
    arrays(folder / "series.npz")
    words = ["dataset=arrays", "dataset.path=series.npz", "way=2", "dataset.shares=[0.34,0.33,0.33]", "shot=3"]
    learner = metarun.load(short_run(folder / "run", "data_root=.", *words, "dataset.normalise=channel"), device="cpu")
    tasks, outputs = tried(learner)
    learned = learner.learned
    assert learned is not None and learned.x is not None and learned.x.mean.shape == (2, 1)
    with np.load(folder / "series.npz") as stored:
        values, classes = stored["x"], stored["y"]
    trained = [int(name) for name in (learner.record.data or {})["classes"]["train"]]
    of = values[np.isin(classes, trained)].astype(np.float64)
    mean, deviation = of.mean((0, 2))[:, None], of.std((0, 2))[:, None]
    x, queries = (part.double().numpy() * deviation + mean for part in (tasks.support_x[0], tasks.query_x[0]))
    adapted = learner.adapt(x, ["slow"] * 3 + ["fast"] * 3)
    assert adapted.classes == ["fast", "slow"]
    same = learner.adapt(x, [0] * 3 + [1] * 3)
    assert torch.allclose(same(queries), outputs[0], atol=1e-4)


def test_nothing_is_scaled_where_the_run_scaled_nothing(folder: Path) -> None:
    words = [*BY_PART, "dataset.normalise=false", "algo.inner_lr=1e-6", "model.norm=false"]
    learner = metarun.load(short_run(folder / "run", "data_root=.", *words), device="cpu")
    tasks, outputs = tried(learner)
    assert float(tasks.support_x.max()) > 1000
    adapted = learner.adapt(tasks.support_x[0], tasks.support_y[0])
    assert torch.allclose(adapted(tasks.query_x[0]), outputs[0], rtol=1e-4) and adapted.module() is adapted.networks[0]


def test_rows_that_cannot_be_are_one_line(folder: Path) -> None:
    learner = metarun.load(short_run(folder / "run", "data_root=.", *BY_PART), device="cpu")
    for x, y, said in (
        ([[1.0, 2.0, 3.0]] * 2, [1, 2], r"x: has shape \(2, 3\), and examples of this run have"),
        ([[1.0, float("nan")]] * 2, [1, 2], "x: has values that are not finite"),
        ([[1.0, 1e300]] * 2, [1, 2], "too large a number"),
        ([[1.0, 2.0]] * 2, [[1, 2]] * 2, r"y: has shape \(2, 2\), and must have \(2, 1\)"),
        ([[1.0, 2.0]] * 2, ["a", "b"], "y: must be an array of numbers"),
    ):
        with pytest.raises(UserError, match=said) as error:
            learner.adapt(x, y)
        assert "\n" not in str(error.value)
