from __future__ import annotations

import functools
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from metarun import config
from metarun.cli import main as cli
from metarun.core.outer_settings import Curvature
from metarun.errors import UserError
from metarun.files import write_json
from metarun.results import page
from metarun.results.result_file import read as read_result
from metarun.results.result_file import sealed
from metarun.runs import folder
from metarun.runs.folder import LOCK, RESULT, claim, finished, fresh, misfit, same_training
from metarun.runs.record import CONFIG, LATER, Record
from tests.support.results import result


@functools.cache  # composing takes a quarter of a second
def record_of(*words: str) -> Record:
    return config.compose(list(words))[1]


def sealed_for(record: Record) -> dict[str, Any]:
    """A result as a run of this configuration would write it."""
    return sealed(replace(result(), config=record.identity(), config_hash=record.hash()).to_json())


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
            write_json(run_dir / RESULT, sealed_for(record))
            (run_dir / page.NAME).write_text("")
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


SPOILED = ["empty", "cut", "edited", "list", "deep", "odd bytes", "without a checksum", "another configuration's"]


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_result_is_no_finished_run(tmp_path: Path, how: str) -> None:
    record, other = record_of(), record_of("seed=9")
    write_json(tmp_path / CONFIG, vars(record))
    assert not finished(tmp_path) and misfit(tmp_path) is None
    write_json(tmp_path / RESULT, sealed_for(record))
    assert finished(tmp_path) and misfit(tmp_path) is None
    whole = (tmp_path / RESULT).read_text()
    spoiled: dict[str, bytes] = {
        "empty": b"",
        "cut": whole[:20].encode(),
        "edited": whole.replace('"scores"', '"seed": 3, "scores"').encode(),
        "list": b"[]",
        "deep": b"[" * 100_000,
        "odd bytes": b"\xff\x00" + whole.encode(),
        "without a checksum": json.dumps({"scores": []}).encode(),
        "another configuration's": json.dumps(sealed_for(other)).encode(),
    }
    (tmp_path / RESULT).write_bytes(spoiled[how])
    said = misfit(tmp_path)
    assert not finished(tmp_path) and said is not None and "\n" not in said and str(tmp_path / RESULT) in said
    kept = [folder.set_aside(tmp_path / RESULT), None]
    write_json(tmp_path / RESULT, sealed_for(other))
    kept[1] = folder.set_aside(tmp_path / RESULT)
    assert [path and path.name for path in kept] == ["result.unfit.json", "result.unfit_2.json"]
    assert (tmp_path / "result.unfit.json").read_bytes() == spoiled[how] and not (tmp_path / RESULT).exists()


@pytest.mark.full
def test_a_run_whose_result_is_spoiled_is_tested_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "dataset=sinusoid", "model.hidden=[4]", "meta_batch=2", "steps=1", "eval.every=0",
             "eval.tasks=2", "device.compile=false", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    assert cli.main(words) == 0
    file = tmp_path / "run" / RESULT
    before = read_result(file)
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    edited = file.read_bytes()
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(words) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "was changed after" in err and "testing again" in err and "result.unfit.json" in err
    assert read_result(file).scores == before.scores
    assert file.with_name("result.unfit.json").read_bytes() == edited
    assert cli.main(words) == 0 and "already done" in capsys.readouterr().out


def test_a_spoiled_neighbour_is_none(tmp_path: Path) -> None:
    record = record_of()
    for name, texts in {
        "a": {CONFIG: "{", RESULT: "{}"},
        "b": {CONFIG: json.dumps(vars(record)), RESULT: ""},
        "c": {CONFIG: "[" * 100_000, RESULT: "{}"},
        "mine": {},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in texts.items():
            (tmp_path / name / file).write_text(text)
    (tmp_path / "d" / CONFIG).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert same_training(tmp_path / "mine", record) is None
    write_json(tmp_path / "b" / RESULT, sealed_for(record))
    assert same_training(tmp_path / "mine", record) == tmp_path / "b"


SOUND = {"names": {"algo": "maml"}, "kinds": {"algo": "mine"}, "values": {"algo": {}}, "changed": []}


@pytest.mark.parametrize(
    "damage",
    [{"names": []}, {"names": {"algo": 3}}, {"kinds": None}, {"values": []}, {"values": {}}, {"values": {"algo": "x"}},
     {"changed": "x"}, {"more": 1}, {"names": {}}, {"names": {"algo": "maml", "model": "mlp"}},
     {"kinds": {"algo": "maml", "model": "mlp"}}],
)  # fmt: skip
def test_a_configuration_that_is_none_is_said_in_one_line(tmp_path: Path, damage: dict[str, Any]) -> None:
    write_json(tmp_path / CONFIG, SOUND)
    assert Record.read(tmp_path) == Record(**SOUND)  # type: ignore[arg-type]
    write_json(tmp_path / CONFIG, SOUND | damage)
    with pytest.raises(UserError, match=r"config\.json: damaged \(.*\)$"):
        Record.read(tmp_path)


def test_a_configuration_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Settings of a test are nowhere else: another ``eval.seed`` would be a test on other tasks, with no word of it."""
    record = record_of("dataset=sinusoid")
    record.write(tmp_path)
    assert Record.read(tmp_path) == record
    text = (tmp_path / CONFIG).read_text()
    changes = {
        '"tasks": 600': '"tasks": 601',
        '"way": 5': '"way": 7',
        '"sha256"': '"sha257"',
        '"changed": []': '"changed": [1]',
    }
    for was, now in changes.items():
        assert text.count(was) == 1
        (tmp_path / CONFIG).write_text(text.replace(was, now))
        with pytest.raises(UserError, match=r"config\.json: (was changed after metarun wrote it|damaged)"):
            Record.read(tmp_path)
        assert cli.main(["eval", f"run={tmp_path}"]) == 2
        assert cli.main(["train", f"run_dir={tmp_path}", "dataset=sinusoid"]) == 2


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", -1, "steps=-1: must be >= 1"),
        ("mine", 1, "Key 'mine' not in"),
        ("eval", 3, "eval"),
        ("way", "x", "way"),
    ],
)
def test_what_eval_cannot_use_of_a_configuration_is_said_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any, said: str
) -> None:
    record = record_of("dataset=sinusoid")
    write_json(tmp_path / CONFIG, {**vars(record), "values": {**record.values, key: value}})
    assert cli.main(["eval", f"run={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"metarun: error: {tmp_path / CONFIG}: ") and said in err, err
    write_json(tmp_path / CONFIG, vars(record))
    assert cli.main(["eval", f"run={tmp_path}", "eval.tasks=-1"]) == 2  # the user's own mistake
    assert capsys.readouterr().err.startswith("metarun: error: eval.tasks=-1: ")


@pytest.mark.parametrize("text", ["", "3", "[]", "null", "[" * 100_000, '{"names": ' * 50_000, "\x00", '{"a": NaN'])
def test_a_configuration_that_is_no_object_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        Record.read(tmp_path)


def test_a_refused_folder_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / CONFIG, vars(record_of("seed=9")))
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("mine", "run", "file", "link", "file/run"):
        with pytest.raises(UserError, match=f"{name}: (holds|cannot be)"):
            claim(*config.compose([f"run_dir={tmp_path / name}"]))
    assert not list(tmp_path.rglob(LOCK))


@pytest.mark.parametrize("thing", ["folder", "link"])
def test_a_lock_that_is_no_file(tmp_path: Path, thing: str) -> None:
    path = tmp_path / "run" / LOCK
    path.parent.mkdir()
    if thing == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere/at/all")
    with pytest.raises(UserError, match=r"run: cannot be written \(\.lock: "):
        claim(*config.compose([f"run_dir={tmp_path / 'run'}"]))


def test_a_run_that_was_killed_as_it_began_begins_again(tmp_path: Path) -> None:
    """With its lock, and the half of the first file that it writes."""
    for name in (LOCK, f".{CONFIG}.7.tmp"):
        (tmp_path / name).write_bytes(b"")
    run_dir, lock = claim(*config.compose([f"run_dir={tmp_path}"]))
    lock.release()
    assert run_dir == tmp_path


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / LOCK), pytest.raises(UserError, match="another process"):
        claim(*config.compose([f"run_dir={tmp_path}"]))


def test_outputs_that_cannot_hold_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("nowhere/at/all", tmp_path / "outputs")
    with pytest.raises(OSError, match="outputs"):
        claim(*config.compose([]))


@pytest.mark.parametrize("words", [["algo=maml"], ["algo=pretrain"], ["dataset=image_folder"]], ids=str)
def test_a_run_from_before_a_setting_of_its_parts_opens_and_is_the_same_run(words: list[str], tmp_path: Path) -> None:
    experiment, record = config.compose(words)
    old = json.loads(json.dumps(vars(record)))
    missing = [(group, key) for group, module in record.kinds.items() for key in LATER.get((group, module), {})]
    for group, key in missing:
        del old["values"][group][key]
    write_json(tmp_path / CONFIG, old)
    read = Record.read(tmp_path)
    assert missing and read is not None and read.hash() == record.hash()
    assert config.reopen(read, [])[0] == experiment


def test_a_run_older_than_trust_regions_goes_on(tmp_path: Path) -> None:
    """Their settings stand in an identity only where they are not the usual ones."""
    words = ["dataset=sinusoid", f"run_dir={tmp_path / 'run'}"]
    experiment, record = config.compose(words)
    assert not [key for key in record.identity() if "trust_region" in key or "promp" in key]
    algo = {key: value for key, value in record.values["algo"].items() if key not in ("trust_region", "promp")}
    older = replace(record, values={**record.values, "algo": algo})
    assert older.hash() == record.hash()
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / CONFIG, vars(older))
    _, lock = claim(experiment, record)
    lock.release()
    read = Record.read(tmp_path / "run")
    assert read is not None
    algo_of_old = config.reopen(read, [])[0].algo
    assert replace(algo_of_old, trust_region=experiment.algo.trust_region) == experiment.algo
    other = config.compose(["dataset=navigation", "algo.trust_region.max_kl=0.02"])[1]
    assert other.identity()["algo.trust_region.max_kl"] == 0.02


def test_a_run_older_than_the_choice_of_curvature_had_the_exact_one(tmp_path: Path) -> None:
    now = config.compose(["dataset=navigation"])[1]
    assert now.identity()["algo.trust_region.curvature"] == "differences"
    region = {key: value for key, value in now.values["algo"]["trust_region"].items() if key != "curvature"}
    values = {**now.values, "algo": {**now.values["algo"], "trust_region": region}}
    write_json(tmp_path / CONFIG, vars(replace(now, values=values)))
    read = Record.read(tmp_path)
    assert read is not None and config.reopen(read, [])[0].algo.trust_region.curvature is Curvature.exact
    assert read.hash() == config.compose(["dataset=navigation", "algo.trust_region.curvature=exact"])[1].hash()


def test_settings_of_another_outer_optimizer_are_none_of_a_run() -> None:
    record = config.compose(["dataset=navigation", "algo.outer_optimizer=adam"])[1]
    assert record.values["algo"]["trust_region"]["curvature"] == "differences"
    assert not [key for key in record.identity() if "trust_region" in key]
