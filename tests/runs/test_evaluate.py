from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch

from metarun import config
from metarun.core.batch_norm import Norm
from metarun.core.episode import Episode
from metarun.core.objective import supervised
from metarun.datasets.base import Split
from metarun.engine.kernels.build import library
from metarun.engine.over_tasks import TRACE_PAYS, Compile, Engine, Vectorize
from metarun.engine.trace import Trace
from metarun.runs.evaluate import Evaluator, Measured, evaluate, measured_episodes, predictions
from metarun.runs.setup import Setup, build
from tests.support.commands import ON_IMAGES

SMALL = ["model.filters=8", "eval.query=2", "algo.eval_inner_steps=3"]


def bench(*overrides: str) -> Setup:
    return build(config.compose([*SMALL, *overrides])[0])


def test_only_the_last_step_on_request() -> None:
    b = bench()
    meta = b.first_meta()
    (every,) = evaluate(b, meta, Split.test, 4, Norm.transductive)
    (last,) = evaluate(b, meta, Split.test, 4, Norm.transductive, last_only=True)
    (row,) = last.by_steps()
    assert row == every.by_steps()[-1] and row.steps == 3


def test_shots_at_test_are_a_setting_of_their_own() -> None:
    b = bench("shot=4", "eval.shot=2")
    assert next(measured_episodes(b, Split.test, 3)).support_x.shape[:2] == (3, 10)
    assert b.tasks.sample(Split.train, 0, range(1), 5, *b.experiment.training_shots()).support_x.shape[1] == 20
    assert b.protocol()["task"] == "5-way 2-shot" and b.protocol()["train_shot"] == 4


def test_scores_by_hand() -> None:
    """The same numbers from the algorithm's own adapt, task by task."""
    b = bench()
    meta, problem = b.first_meta(), supervised(b.problem, "")
    (score,) = evaluate(b, meta, Split.test, 10, Norm.transductive)
    assert score.metric.shape == score.loss.shape == (10, 4)
    tasks = (Episode(*fields) for fields in zip(*next(measured_episodes(b, Split.test, 10)), strict=True))
    for t, task in enumerate(tasks):
        for s, params in enumerate(b.experiment.algo.adapt(problem, meta, task, 3)):
            outputs = problem.forward(params, task.query_x)
            assert score.loss[t, s].item() == pytest.approx(problem.loss(outputs, task.query_y).item(), rel=1e-4)
            assert score.metric[t, s].item() == pytest.approx(problem.judge(outputs, task.query_y).item())
    row = score.by_steps()[3]
    assert row.steps == 3 and row.estimate.mean == pytest.approx(score.metric[:, 3].double().mean().item())
    (*_, last) = score.estimates
    assert last == row.estimate and (last.tasks, last.diverged) == (10, 0)


def test_tasks_are_paired_whatever_runs_and_however_it_is_batched() -> None:
    """Neither algorithm, run seed, batching nor number of tasks changes what task i is."""
    one = next(measured_episodes(bench(), Split.test, 40))
    for other in (bench("algo=reptile", "seed=7"), bench("device.vectorize=loop")):
        got = next(measured_episodes(other, Split.test, 33))
        assert all(torch.equal(a[:32], b[:32]) for a, b in zip(one, got, strict=True))
    moved = next(measured_episodes(bench("eval.seed=1"), Split.test, 40))
    assert not torch.equal(one.support_x, moved.support_x)


@pytest.mark.sampled(0, 4)
@pytest.mark.parametrize("algo", ON_IMAGES)
def test_vectorised_evaluation_is_the_loops(algo: str) -> None:
    slow = [] if algo == "protonet" else ["algo.inner_lr=0.01"]
    b = bench(f"algo={algo}", *slow, "model.filters=16")
    meta = b.first_meta()
    scores = []
    native = Engine(Vectorize.grouped, 3, native=library())
    for engine in (Engine(Vectorize.loop), Engine(Vectorize.vmap, 3), Engine(Vectorize.vmap), native):
        scores.append(evaluate(dataclasses.replace(b, engine=engine), meta, Split.test, 5, Norm.all))
    for other in scores[1:]:
        for a, c in zip(scores[0], other, strict=True):
            torch.testing.assert_close(a.loss, c.loss, rtol=1e-3, atol=1e-4)
    traced = dataclasses.replace(b, engine=Engine(Vectorize.grouped, 5, Compile.auto, library()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it cannot be traced
        score = Evaluator(traced, 5, Norm.transductive, last_only=True, times=TRACE_PAYS)
        (last,) = score(meta, Split.test)
    torch.testing.assert_close(last.loss, scores[0][0].loss[:, -1:], rtol=1e-3, atol=1e-4)


def test_last_only_is_the_last_column() -> None:
    b = bench()
    meta = b.first_meta()
    (full,) = evaluate(b, meta, Split.val, 5, Norm.support)
    (last,) = evaluate(b, meta, Split.val, 5, Norm.support, last_only=True)
    assert last.metric.shape == (5, 1) and torch.equal(last.metric, full.metric[:, -1:])


def test_all_norms_in_one_pass() -> None:
    b = bench()
    scores = evaluate(b, b.first_meta(), Split.test, 4, Norm.all)
    assert [score.norm for score in scores] == [Norm.transductive, Norm.support, Norm.support_plus_one]
    for score in scores:
        (alone,) = evaluate(b, b.first_meta(), Split.test, 4, score.norm)
        assert torch.equal(alone.metric, score.metric)


@pytest.mark.full
def test_an_evaluation_of_many_tasks_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counting(Trace):
        def __init__(self, *arguments: Any):
            made.append(len(arguments[-1].key))
            super().__init__(*arguments)

    monkeypatch.setattr("metarun.engine.trace.Trace", Counting)

    def scores(tasks: int, *overrides: str) -> list[Measured]:
        b = bench("device.chunk=2", "model.filters=16", "algo.eval_inner_steps=1", *overrides)
        return evaluate(b, b.first_meta(), Split.test, tasks, Norm.all, last_only=True)

    many = 2 * (TRACE_PAYS + 2) + 3  # and a rest, in chunks of other sizes
    traced, plain = scores(many), scores(many, "device.compile=false")
    assert made == [2]
    for a, b in zip(traced, plain, strict=True):
        assert a.metric.shape == (many, 1)
        torch.testing.assert_close(a.loss, b.loss, rtol=1e-4, atol=1e-5)
    validated = bench("device.chunk=2", "model.filters=16", "algo.eval_inner_steps=1")
    often = Evaluator(validated, 2, Norm.transductive, times=TRACE_PAYS)
    first, second = (often(validated.first_meta(), Split.val) for _ in range(2))
    assert made == [2, 2] and torch.equal(first[0].loss, second[0].loss)
    scores(2 * (TRACE_PAYS - 1))  # too few to earn it back
    scores(10, "device.compile=true")  # which is about meta-steps
    assert made == [2, 2]


def test_predictions_cover_every_step() -> None:
    b = build(config.compose(["dataset=sinusoid"])[0])
    episodes = b.tasks.sample(Split.test, 0, range(2), 5, 10, 6)
    assert predictions(b, b.first_meta(), episodes, Norm.transductive).shape == (2, 11, 6, 1)
