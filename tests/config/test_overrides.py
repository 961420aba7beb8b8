"""Overrides: paths as people have them, values that run as typed, and keys that a test does not read."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

import pytest
import torch

from metarun import config
from metarun.algorithms.base import Algorithm
from metarun.cli import main as cli
from metarun.cli import train
from metarun.config import composition
from metarun.config.overrides import as_typed, read, samples
from metarun.core.batch_norm import Norm
from metarun.datasets.base import Split
from metarun.errors import UserError
from metarun.runs.evaluate import evaluate
from metarun.runs.setup import Setup, build

PATHS = [
    "/data/my images ü",
    "~/flowers",
    "a=b",
    "it's",
    'say "x"',
    "C:\\data\\",
    "a(b)[c]{d},e",
    "#1",
    "$x",
    "123",
    "\\'",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_the_shell_hands_it_over(path: str) -> None:
    (word,) = as_typed([f"run_dir={path}"])
    assert config.compose([word])[0].run_dir == path


@pytest.mark.parametrize("word", ["run_dir='a b'", 'data_root="/x y"', "run_dir=null", "seed=1"])
def test_words_for_hydra_stay(word: str) -> None:
    assert as_typed([word]) == [word]


def test_a_sweep_over_paths_stays() -> None:
    assert as_typed(["data_root=/a,/b"], multirun=True) == ["data_root=/a,/b"]
    assert as_typed(["data_root=/a b"], multirun=True) == ["data_root='/a b'"]


@pytest.mark.parametrize("word", ["run_dir=", "data_root= ", "dataset.path="])
def test_an_empty_path_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"{word}: has no value"):
        as_typed([word])


@pytest.mark.parametrize(
    "words", ["algo=pretrain algo.inner_steps=5", "algo=random steps=9", "algo=oracle algo.inner_steps=1"]
)
def test_a_value_that_would_not_run_is_refused(words: str) -> None:
    typed = words.split()
    with pytest.raises(UserError, match=f"{typed[1]}: with {typed[0]} .* it is [01] and nothing else"):
        config.compose([*typed, *(["dataset=sinusoid"] if "oracle" in words else [])])


def test_what_is_recorded_is_what_runs() -> None:
    experiment, record = config.compose(["algo=pretrain", "dataset=mnist", "algo.inner_steps=0"])
    assert record.values["algo"]["inner_steps"] == experiment.algo.inner_steps == 0, "mnist's default is 5"
    experiment, record = config.compose(["algo=random", "steps=1"])
    assert record.values["steps"] == experiment.steps == 1


@pytest.mark.parametrize("run_dir", ["x/${hydra:job.num}", "x/${hydra:job.override_dirname}"])
def test_what_only_a_job_can_resolve_is_left_to_it(run_dir: str) -> None:
    config.check(["seed=0,1", f"run_dir={run_dir}"], multirun=True)
    with pytest.raises(UserError, match="run_dirr"):
        config.check(["seed=0,1", f"run_dirr={run_dir}"], multirun=True)


def test_a_key_that_hydra_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"Hydra has no key nope\.num"):
        config.check(["run_dir=x/${hydra:nope.num}"])


def test_an_interpolation_may_stand_in_any_path() -> None:
    assert config.compose(["run_dir=a=b c/${seed}", "seed=3"])[0].run_dir == "a=b c/3"


def test_an_interval_needs_a_sweeper_that_searches() -> None:
    with pytest.raises(UserError, match="interval"):
        config.check(["algo.inner_lr=interval(0.1,1)"], multirun=True)


def test_a_search_is_tried_at_its_ends() -> None:
    with composition.composing():
        jobs = samples(read(["seed=7", "algo.inner_lr=interval(0.1,1)", "algo=maml,fomaml", "shot=int(interval(1,5))"]))
    first = ["seed=7", "algo.inner_lr=0.1", "algo=maml", "shot=1"]
    assert jobs[0] == first and len(jobs) == 4
    others = [job[place] for job, place in zip(jobs[1:], (1, 2, 3), strict=True)]
    assert others == ["algo.inner_lr=1.0", "algo=fomaml", "shot=5"]
    assert all(sum(a != b for a, b in zip(job, first, strict=True)) == 1 for job in jobs[1:])


def test_a_search_needs_a_figure_to_go_by() -> None:
    with composition.composing():
        composition._suits_a_search(["dataset=sinusoid"])
        with pytest.raises(UserError, match=r"eval\.every=0: must be > 0"):
            composition._suits_a_search(["dataset=sinusoid", "eval.every=0"])
        with pytest.raises(UserError, match=r"direction=minimize: must be maximize"):
            composition._suits_a_search(["+hydra.sweeper.direction=minimize"])


def test_a_job_returns_its_validation_figure(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    returned = []
    job = train.Jobs.run
    monkeypatch.setattr(train.Jobs, "run", lambda jobs, cfg: returned.append(job(jobs, cfg)))
    words = ["dataset=sinusoid", "steps=1", "eval.tasks=2", "eval.val_tasks=2"]
    assert cli.main(["train", "run_dir=a", *words]) == 0
    assert cli.main(["train", "run_dir=b", *words, "eval.every=0"]) == 0
    validation = json.loads((tmp_path / "a/result.json").read_text())["selected"]["validation"]
    assert returned == [validation["mean"], None]


def test_a_folder_of_before_holds_the_same_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "algo=pretrain", "dataset=gaussians", "run_dir=r", "steps=1", "eval.every=0", "eval.tasks=2"]
    assert cli.main(words) == 0
    record = json.loads((tmp_path / "r/config.json").read_text())
    record["values"]["algo"]["inner_steps"] = 5  # the data set's default, which pretraining never used
    del record["sha256"]  # as in older folders
    (tmp_path / "r/config.json").write_text(json.dumps(record))
    (tmp_path / "r/result.json").unlink()
    assert cli.main(words) == 0


@pytest.mark.full
def test_jobs_get_what_hydra_resolves(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["dataset=sinusoid", "steps=1", "eval.every=0", "eval.tasks=2"]
    assert cli.main(["train", "-m", "seed=3,4", "run_dir=sweep/${hydra:job.num}", *words]) == 0
    assert cli.main(["train", "run_dir=a=b c", *words]) == 0
    assert [(tmp_path / name / "result.json").exists() for name in ("sweep/0", "sweep/1", "a=b c")] == [True] * 3


PARTS = {"mann": ["model=mann"], "oracle": ["dataset=sinusoid"], "reptile": ["model=mlp", "algo.carry_moments=false"]}
CHOICES = config.choices("algo")


def bench_of(name: str) -> Setup:
    words = PARTS.get(name, ["model=mlp"])
    x, _ = config.compose([f"algo={name}", *words, "shot=2", "query=2", "device.compile=false"])
    return build(x)


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, enum.Enum):
        members = list(type(value))
        return members[(members.index(value) + 1) % len(members)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        first = dataclasses.fields(value)[0].name
        return dataclasses.replace(value, **{first: other(getattr(value, first))})
    if value is None:
        return 1
    return value + 1 if isinstance(value, int) else [*value, "*bias"] if isinstance(value, list) else value / 2


def measured(bench: Setup, algo: Algorithm) -> torch.Tensor:
    bench = dataclasses.replace(bench, experiment=dataclasses.replace(bench.experiment, algo=algo))
    (score,) = evaluate(bench, bench.first_meta(), Split.test, 2, Norm.transductive)
    return torch.stack([score.metric, score.loss])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", CHOICES)
def test_what_only_training_reads_changes_no_test(name: str) -> None:
    bench = bench_of(name)
    algo = bench.experiment.algo
    before = measured(bench, algo)
    for field in type(algo).training_only():
        changed = dataclasses.replace(algo, **{field: other(getattr(algo, field))})
        assert torch.equal(measured(bench, changed), before), field


# settings whose change does not show with every method, network and number of steps
SHOW_SELDOM = {
    *("head", "rates", "eps", "learned_rates", "carry_moments", "slots", "frozen"),
    *("inner_lr", "inner_loss", "inner_batch", "eval_inner_batch", "eval_later_lr"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CHOICES)
def test_what_only_training_reads_is_said_to_be_training_s(name: str) -> None:
    """A setting whose change no test shows is one of ``of_training``."""
    bench = bench_of(name)
    algo = bench.experiment.algo
    before = measured(bench, algo)
    read = {field.name for field in dataclasses.fields(algo)} - type(algo).training_only() - SHOW_SELDOM
    for field in sorted(read - set(algo.unread())):
        changed = dataclasses.replace(algo, **{field: other(getattr(algo, field))})
        after = measured(bench, changed)
        assert after.shape != before.shape or not torch.equal(after, before), f"{field}: if so, say it in of_training"


@pytest.mark.parametrize(
    "word",
    [
        "seed=3",
        "steps=7",
        "shot=2",
        "query=3",
        "meta_batch=2",
        "eval.every=1",
        "eval.val_tasks=9",
        "run_dir=x",
        "log_every=2",
        "algo.outer_lr=1",
        "algo.trust_region.max_kl=1",
        "algo.inner_steps=2",
        "algo.hypergrad=recompute",
        "eval.select=last",
        "resume=never",
    ],
)
def test_eval_refuses_what_decides_training(word: str) -> None:
    _, record = config.compose(["dataset=sinusoid"])
    with pytest.raises(UserError, match=f"{word}: only training reads"):
        config.reopen(record, [word])


def test_eval_takes_what_decides_a_test() -> None:
    _, record = config.compose(["dataset=sinusoid"])
    words = [
        "eval.seed=3",
        "eval.shot=5",
        "eval.tasks=7",
        "algo.eval_inner_steps=4",
        "device.threads=1",
        "data_root=/x y",
    ]
    experiment, _ = config.reopen(record, as_typed(words))
    assert (experiment.eval.seed, experiment.eval.shot, experiment.data_root) == (3, 5, "/x y")
