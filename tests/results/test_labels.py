from __future__ import annotations

from metarun.results.labels import labels, telling

BASE = {
    "algo (option)": "maml",
    "model (option)": "conv4",
    "shot": 1,
    "eval.shot": 1,
    "query": 5,
    "eval.query": 5,
    "algo.inner_lr": 0.4,
    "algo.frozen": [],
    "model.filters": 64,
}


def test_what_is_the_same_everywhere_tells_nothing() -> None:
    assert telling([BASE]) == telling([BASE, dict(BASE)]) == [] and labels([BASE]) == [""]


def test_any_number_of_settings_tell_in_their_order() -> None:
    changed = {**BASE, "shot": 5, "algo.inner_lr": 0.1, "model.filters": 32, "algo.frozen": ["body.*"]}
    assert telling([BASE, changed]) == ["shot", "algo.inner_lr", "algo.frozen", "model.filters"]
    assert labels([BASE, changed])[1] == 'shot=5 algo.inner_lr=0.1 algo.frozen=["body.*"] model.filters=32'


def test_what_follows_another_setting_is_no_news() -> None:
    assert telling([BASE, {**BASE, "shot": 5, "eval.shot": 5}]) == ["shot"]
    assert telling([BASE, {**BASE, "shot": 5}, {**BASE, "eval.shot": 5}]) == ["shot", "eval.shot"]


def test_what_a_column_says_is_not_said_twice() -> None:
    other = {**BASE, "eval.norm": "all"}
    one = {**BASE, "eval.norm": "support"}
    assert telling([one, other], [{"norm": "support"}, {"norm": "transductive"}]) == []
    assert telling([one, other], [{"norm": "support"}, {"norm": "support"}]) == ["eval.norm"]


def test_keys_of_another_choice_tell_no_more_than_the_choice() -> None:
    mlp = {key: value for key, value in BASE.items() if key != "model.filters"} | {"model (option)": "mlp"}
    assert telling([BASE, mlp]) == ["model (option)"] and labels([BASE, mlp]) == ["model=conv4", "model=mlp"]
    older = {key: value for key, value in BASE.items() if key != "model.filters"}
    assert telling([BASE, older]) == ["model.filters"] and labels([BASE, older]) == ["model.filters=64", ""]
    assert telling([BASE, {**mlp, "model.filters": 8}]) == ["model (option)", "model.filters"]


def test_long_values_are_shortened_where_they_stay_different() -> None:
    long = "a" * 30
    assert labels([{"x": long}, {"x": "b"}]) == [f"x={'a' * 23}…", "x=b"]
    assert labels([{"x": long + "1"}, {"x": long + "2"}]) == [f"x={long}1", f"x={long}2"]


def test_letters_of_any_language_are_shown_as_they_are() -> None:
    configs = [{**BASE, "dataset.target": [name]} for name in ("Öl [°C]", "温度")]
    assert labels(configs) == ['dataset.target=["Öl [°C]"]', 'dataset.target=["温度"]']
