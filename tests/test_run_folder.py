from __future__ import annotations

from pathlib import Path

import pytest

from metarun import config
from metarun.errors import UserError
from metarun.files import write_json
from metarun.run_folder import CONFIG, RESULT, claim, fresh


def test_names_are_readable_and_never_taken_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for words in (["algo=reptile", "seed=3"], ["algo=reptile", "seed=3"], ["dataset=sinusoid"]):
        run_dir, lock = claim(*config.compose(words))
        lock.release()
        names.append(run_dir.name.split("_", 2)[2])
    assert (
        names[0] == "reptile_glyphs_5w1s_s3"
        and names[1] in (names[0], f"{names[0]}_2")
        and names[2] == "maml_sinusoid_10s_s0"
    )
    assert len(list((tmp_path / "outputs").iterdir())) == 3


def test_an_unfinished_run_of_the_same_configuration_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment, record = config.compose(["seed=1"])
    first, lock = claim(experiment, record)
    write_json(first / CONFIG, vars(record))
    other, other_lock = claim(experiment, record)  # the first is being worked on
    lock.release()
    assert other != first
    other_lock.release()
    assert claim(experiment, record)[0] == first
    fresh_start, _ = claim(*config.compose(["seed=1", "resume=never"]))
    assert fresh_start not in (first, other)
    assert claim(*config.compose(["seed=1", "shot=2"]))[0] != first


def test_finished_and_damaged_runs_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment, record = config.compose([])
    for damage in (True, False):
        run_dir, lock = claim(experiment, record)
        write_json(run_dir / CONFIG, vars(record))
        if damage:
            (run_dir / CONFIG).write_text("{")
        else:
            (run_dir / RESULT).write_text("{}")
        lock.release()
    run_dir, lock = claim(experiment, record)
    lock.release()
    assert not (run_dir / CONFIG).exists()
    damaged = next(path.parent for path in Path("outputs").glob(f"*/{CONFIG}") if path.read_text() == "{")
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        claim(*config.compose([f"run_dir={damaged}"]))


def test_where_a_run_lies_is_no_part_of_what_it_is() -> None:
    plain = config.compose([])[1].hash()
    assert config.compose(["run_dir=here", "data_root=there", "resume=never"])[1].hash() == plain
    for word in ("seed=1", "algo.inner_lr=0.3", "device=cpu", "eval.tasks=7", "model=mlp"):
        assert config.compose([word])[1].hash() != plain


def test_fresh_folders(tmp_path: Path) -> None:
    assert [fresh(tmp_path / "a/b").name for _ in range(3)] == ["b", "b_2", "b_3"]
