from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarun import config
from metarun.core.episode import TaskFigure, View
from metarun.core.metric import ACCURACY, NORMALISED_ERROR, SQUARED_ERROR
from metarun.core.objective import one_output_a_class, supervised
from metarun.datasets.base import Split, Tasks
from metarun.datasets.sampler import ClassPool
from metarun.datasets.task_pool import TaskPool
from metarun.errors import TooFewExamples, UserError
from metarun.runs import held_out
from tests.support.own_tables import HEADER, NUMBERS, STATES, changed, sensors, write

CPU = torch.device("cpu")
CLASSES = ["dataset=table", "dataset.path=sensors.csv", "dataset.target=[machine]", NUMBERS[-1], "dataset.split=part"]


def load(folder: Path, words: list[str], rows: list[list[str]] | None = None) -> Any:
    write(folder / "sensors.csv", rows)
    return config.compose(words)[0].dataset.load(folder, CPU)


def column(name: str, part: str | None = None) -> np.ndarray:
    header, *rows = sensors()
    return np.array([float(row[header.index(name)]) for row in rows if part in (None, row[-1])])


def normalised(name: str, part: str = "train") -> np.ndarray:
    """A column as meta-training rows normalise it, computed here."""
    of_part = column(name, part)
    return ((column(name) - of_part.mean()) / of_part.std()).astype(np.float32)


def rows_of(x: torch.Tensor, values: list[np.ndarray]) -> list[int]:
    """Rows of the file whose values are these examples [B, D]."""
    found = [np.flatnonzero(np.all(np.isclose(np.stack(values, 1), row, atol=1e-6), 1)) for row in x.numpy()]
    assert all(len(some) == 1 for some in found)
    return [int(some[0]) for some in found]


def test_a_task_to_predict_numbers_is_rows_of_one_machine(tmp_path: Path) -> None:
    tasks = load(tmp_path, [*NUMBERS, "dataset.split=part"])
    assert isinstance(tasks, TaskPool) and tasks.figure is TaskFigure.fit and tasks.input_shape == (2,)
    assert {split: len(tasks.class_names(split)) for split in Split} == {Split.train: 6, Split.val: 2, Split.test: 2}
    inputs, target = [normalised("speed [rpm]"), normalised("load")], normalised("temperature")
    machine = [row[0] for row in sensors()[1:]]
    seen = set()
    for split in Split:
        episode = tasks.sample(split, 0, range(12), 5, 3, 4)
        assert episode.support_x.shape == (12, 3, 2) and episode.query_y.shape == (12, 4, 1)
        assert episode.support_y.dtype == episode.support_x.dtype == torch.float32
        names = [of[0] for of in tasks.drawn(split, 0, range(12), 5)]
        for t in range(12):
            x = torch.cat([episode.support_x[t], episode.query_x[t]])
            y = torch.cat([episode.support_y[t], episode.query_y[t]])
            rows = rows_of(x, inputs)
            assert len(set(rows)) == 7, "a row came twice"
            assert {machine[row] for row in rows} == {names[t]} <= set(tasks.class_names(split))
            np.testing.assert_allclose(y[:, 0], target[rows], atol=1e-6)
            seen |= set(rows)
    assert len(seen) > 110


def test_every_named_task_comes_as_often_as_the_others(tmp_path: Path) -> None:
    tasks = load(tmp_path, NUMBERS)
    for split in Split:
        names = tasks.class_names(split)
        drawn = [of[0] for of in tasks.drawn(split, 1, range(4 * len(names)), 5)]
        assert set(Counter(drawn).values()) == {4}
        assert set(drawn[: len(names)]) == set(names)  # once each, before one comes again
        assert drawn != [of[0] for of in tasks.drawn(split, 2, range(4 * len(names)), 5)]


def test_tasks_are_functions_of_their_index(tmp_path: Path) -> None:
    tasks = load(tmp_path, STATES)
    whole = tasks.sample(Split.train, 1, range(10), 2, 3, 4)
    part = tasks.sample(Split.train, 1, range(4, 6), 2, 3, 1)
    assert torch.equal(part.support_x, whole.support_x[4:6]) and torch.equal(part.key, whole.key[4:6])
    assert len(set(whole.key.tolist())) == 10
    again = tasks.sample(Split.train, 1, range(6, 12), 2, 3, 4)  # 6 machines: the next round has other rows of them
    assert not any(torch.equal(a, b) for a in again.support_x for b in whole.support_x[:6])


def test_a_task_of_classes_has_all_of_them_with_the_labels_of_every_task(tmp_path: Path) -> None:
    tasks = load(tmp_path, STATES)
    assert isinstance(tasks, TaskPool) and tasks.figure is TaskFigure.points  # two inputs
    episode = tasks.sample(Split.test, 0, range(8), 2, 3, 4)
    assert episode.support_y[5].tolist() == [0, 0, 0, 1, 1, 1] and episode.query_y[0].tolist() == [0] * 4 + [1] * 4
    inputs = [normalised("speed [rpm]"), normalised("load")]
    of_row = [(row[0], row[5]) for row in sensors()[1:]]
    for t in range(8):
        rows = rows_of(torch.cat([episode.support_x[t], episode.query_x[t]]), inputs)
        labels = torch.cat([episode.support_y[t], episode.query_y[t]]).tolist()
        assert [of_row[row][1] for row in rows] == [["idle", "run"][label] for label in labels]
        assert len({of_row[row][0] for row in rows}) == 1 and len(set(rows)) == 14
    assert tasks.drawn(Split.test, 0, range(2), 2) == [["idle", "run"]] * 2
    assert tasks.seen(View.pooled) is tasks  # as for every family whose labels never change


def test_without_a_task_column_a_task_is_classes_of_its_split(tmp_path: Path) -> None:
    tasks = load(tmp_path, CLASSES)
    assert isinstance(tasks, ClassPool) and not tasks.fixed_labels
    assert tasks.class_names(Split.test) == ["M08", "M09"]
    episode = tasks.sample(Split.train, 0, range(5), 3, 2, 4)
    names = tasks.drawn(Split.train, 0, range(5), 3)
    machine, inputs = [row[0] for row in sensors()[1:]], [normalised("speed [rpm]"), normalised("load")]
    for t in range(5):
        rows = rows_of(episode.support_x[t], inputs)
        assert [machine[row] for row in rows] == [names[t][label] for label in episode.support_y[t].tolist()]
    assert tasks.seen(View.pooled).outputs(3) == 6


def test_several_numbers_are_normalised_each_by_itself(tmp_path: Path) -> None:
    words = [*NUMBERS, "dataset.target=[temperature,power]", "dataset.split=part"]
    tasks = load(tmp_path, words)
    assert tasks.outputs(5) == 2
    episode = tasks.sample(Split.train, 0, range(6), 5, 8, 8)
    rows = rows_of(episode.support_x.flatten(0, 1), [normalised("speed [rpm]"), normalised("load")])
    expected = np.stack([normalised("temperature"), normalised("power")], 1)[rows]
    np.testing.assert_allclose(episode.support_y.flatten(0, 1), expected, atol=1e-6)
    problem = supervised(tasks.problem(lambda params, x: x, 5), "")
    outputs, targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    assert problem.judge(outputs, targets) == problem.loss(outputs, targets) == 2.5
    assert problem.restated(torch.tensor(4.0)) == {"rmse in deviations": 2.0}
    with pytest.raises(UserError, match="algo=protonet needs tasks with one output for each class"):
        one_output_a_class(problem, "algo=protonet")  # two outputs, but no classes


def test_an_error_is_restated_in_the_unit_of_its_number(tmp_path: Path) -> None:
    deviation = column("temperature", "train").std()
    by_part = [*NUMBERS, "dataset.split=part"]
    normal, plain = (load(tmp_path, words) for words in (by_part, [*by_part, "dataset.normalise=false"]))
    for tasks, unit, metric in ((normal, deviation, NORMALISED_ERROR), (plain, 1.0, SQUARED_ERROR)):
        problem = supervised(tasks.problem(lambda params, x: x, 5), "")
        assert problem.metric is metric
        stated = problem.restated(torch.tensor([4.0, torch.nan]))["rmse of temperature"]
        assert stated[0].item() == pytest.approx(2 * unit) and stated[1].isnan()
    assert plain.stamp["targets"] == "temperature; in their own units"
    assert f"(an error of 1 is {deviation:.6g})" in normal.stamp["targets"]
    episode = plain.sample(Split.test, 0, range(6), 5, 3, 4)
    guess = episode.support_y.mean(1, keepdim=True)
    known = plain.yardsticks(episode, {})
    assert torch.equal(known["mean of the support targets"], (episode.query_y - guess).square().mean((1, 2)))


def test_metric_and_way_follow_from_what_is_predicted() -> None:
    assert config.compose(CLASSES)[0].dataset.metric is ACCURACY
    x = config.compose(NUMBERS)[0]
    assert x.dataset.metric is NORMALISED_ERROR and not x.dataset.has_way and x.dataset.kind(5, 3) == "3-shot"
    with pytest.raises(UserError, match="way=3: nothing reads it"):
        config.compose([*NUMBERS, "way=3"])


def test_what_the_network_gets_was_learned_from_meta_training_alone(tmp_path: Path) -> None:
    usual = load(tmp_path, [*NUMBERS, "dataset.split=part"])
    rows = [[*row[:2], "1e6", *row[3:]] if row[-1] in ("val", "test") else row for row in sensors()]
    other = load(tmp_path, [*NUMBERS, "dataset.split=part"], rows)
    assert usual.learned == other.learned and usual.stamp["pool_sha256"] != other.stamp["pool_sha256"]
    assert other.sample(Split.test, 0, range(1), 5, 3, 3).support_x[..., 1].min() > 1000


def test_splits_by_shares_follow_from_names_and_seed_alone(tmp_path: Path) -> None:
    def names(words: list[str], rows: list[list[str]] | None = None) -> list[list[str]]:
        tasks: Tasks = load(tmp_path, [*NUMBERS, "dataset.shares=[0.5,0.2,0.3]", *words], rows)
        return [sorted(tasks.class_names(split) or []) for split in Split]

    usual = names([])
    assert [len(some) for some in usual] == [5, 2, 3] and len(set().union(*usual)) == 10
    header, *rows = sensors()
    assert names([], [header, *rows[::-1]]) == usual
    assert names(["dataset.split_seed=1"]) != usual


def constant(name: str) -> list[list[str]]:
    """The rows with one value in a column."""
    header, *rows = sensors()
    return [header, *([*row[: (i := header.index(name))], "7", *row[i + 1 :]] for row in rows)]


STATE_OF_A_TASK = [row for row in sensors() if (row[0], row[5]) != ("M02", "run")]
REFUSED: dict[str, tuple[list[str], list[list[str]] | None, str]] = {  # name -> words, rows of the file, message
    "two splits": (STATES, changed(3, "part", "test"), "task M00 is in train (line 2) and in test (line 4)"),
    "class in two splits": (CLASSES, changed(3, "part", "test"), "class M00 is in train (line 2) and in test (line 4)"),
    "split": (STATES, changed(3, "part", "learn"), "dataset.split=part: line 4: 'learn' is none of train, val, test"),
    "text": ([*NUMBERS[:-1]], None, "column state: 'idle' is no number"),
    "number": (["dataset.target=[state]", *NUMBERS[:2], *NUMBERS[3:]], None, "for classes: dataset.predict=classes"),
    "constant": (NUMBERS, constant("load"), "load has the same value, 7, in all"),
    "constant target": (NUMBERS, constant("temperature"), "temperature has the same value"),
    "constant as it is": ([*NUMBERS, "dataset.normalise=false"], constant("load"), "load has the same value"),
    "one class": (STATES, constant("state"), "all rows are of class 7"),
    "shares": ([*NUMBERS, "dataset.shares=[0.9,0.02,0.08]"], None, "val gets none of the 10 tasks (9/0/1)"),
    "small": ([*NUMBERS, "dataset.min_rows=17"], None, "dataset.min_rows=17: nothing has so many rows"),
    "no train": (
        [*NUMBERS, "dataset.split=part"],
        [r for r in sensors() if r[6] != "train"],
        "train split has no tasks",
    ),
    "column": ([*NUMBERS, "dataset.split=prat"], None, "(did you mean part?)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_tasks_is_refused(name: str, tmp_path: Path) -> None:
    words, rows, said = REFUSED[name]
    with pytest.raises(UserError, match=re.escape(said)):
        load(tmp_path, words, rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [*NUMBERS, "dataset.target=[load]"],
            "dataset.target=load: must be another column: it is dataset.features too",
        ),
        ([*STATES, "dataset.split=state"], "dataset.split=state: must be another column: it is dataset.target too"),
        ([*NUMBERS, "dataset.features=[load,load]"], "must be columns that differ"),
        (
            [*NUMBERS, "dataset.task=null"],
            "dataset.task=null: must be what names each row's task: with predict=numbers",
        ),
        ([*STATES, "dataset.target=[state,power]"], "must be one column, with predict=classes"),
        ([*STATES, "dataset.target=[]"], "must be one or several columns"),
        ([*STATES, "dataset.target=state"], "must be a list, each text (did you mean [state]?)"),
        ([*STATES, "dataset.shares=[0.5,0.5,0.5]"], "three numbers >= 0 whose sum is 1"),
        ([*STATES, "dataset.min_rows=-1"], "must be >= 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_file_is_read(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        config.compose(words)


def test_numbers_that_are_taken_for_classes_are_not_all_listed(tmp_path: Path) -> None:
    header, *rows = sensors()
    tasks = load(tmp_path, STATES, [header, *([*row[:5], f"{n}.5", row[6]] for n, row in enumerate(rows))])
    with pytest.raises(UserError, match=r"way=5: must be 160, .* and 140 more; .*: dataset.predict=numbers$"):
        tasks.check(Split.train, 5, 1, 1)


def test_a_task_with_too_few_rows_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    tasks = load(tmp_path, STATES, STATE_OF_A_TASK)
    with pytest.raises(TooFewExamples, match="task M02 has none of class run; lower shot or query, or leave out tasks"):
        tasks.check(Split.train, 2, 2, 2)
    tasks.check(Split.test, 2, 4, 4)
    with pytest.raises(TooFewExamples, match="are 9, but task M08 has only 8 of class idle"):
        tasks.check(Split.test, 2, 4, 5)
    with pytest.raises(UserError, match=r"way=3: must be 2, all classes, since .* label in every task: idle, run"):
        tasks.check(Split.test, 3, 1, 1)
    with pytest.warns(UserWarning, match="left out 1 tasks of fewer than dataset.min_rows=2 rows of a class: M02"):
        fewer = load(tmp_path, [*STATES, "dataset.min_rows=2"], STATE_OF_A_TASK)
    fewer.check(Split.train, 2, 2, 2)
    assert "M02" not in fewer.class_names(Split.train)
    numbers = load(tmp_path, NUMBERS)
    with pytest.raises(TooFewExamples, match=r"^10 support \+ 7 query rows \(test\) are 17, but task M0\d has only 16"):
        numbers.check(Split.test, 5, 10, 7)


def test_all_other_columns_are_features_unless_some_are_named(tmp_path: Path) -> None:
    words = [word for word in STATES if word != NUMBERS[-1]]
    tasks = load(tmp_path, words)
    assert tasks.learned["inputs"] == HEADER[1:5] and tasks.input_shape == (4,)
    assert tasks.figure is TaskFigure.none


def test_other_cells_columns_and_tasks_have_another_checksum(tmp_path: Path) -> None:
    def checksum(words: list[str], rows: list[list[str]] | None = None) -> str:
        return load(tmp_path, words, rows).stamp["pool_sha256"]

    renamed = [["M99", *row[1:]] if row[0] == "M00" else row for row in sensors()]
    several = [
        checksum(NUMBERS),
        checksum(NUMBERS, changed(5, "load", "1.5")),
        checksum(NUMBERS, changed(5, "temperature", "1.5")),
        checksum(NUMBERS, renamed),
        checksum([*NUMBERS, "dataset.features=[load]"]),
        checksum([*NUMBERS, "dataset.target=[power]"]),
        checksum(STATES),
        checksum(STATES, changed(5, "state", "run")),
    ]
    assert len(set(several)) == len(several) and checksum(NUMBERS) == several[0]


def test_facts_of_the_data_name_tasks_and_what_was_learned(tmp_path: Path) -> None:
    tasks = load(tmp_path, [*STATES])
    facts = held_out.facts(tasks)
    assert facts["apart"] == "tasks" and facts["classes"]["test"] == ["M08", "M09"] and held_out.sound(facts)
    assert facts["learned"]["classes"] == ["idle", "run"] and facts["learned"]["x"]["rows"] == 96
    fewer = held_out.facts(load(tmp_path, STATES, [row for row in sensors() if row[0] != "M09"]))
    assert held_out.differences(facts, fewer).startswith("test tasks: 1 fewer (M09); pool_sha256: ")
    assert "apart" not in held_out.facts(load(tmp_path, CLASSES))
