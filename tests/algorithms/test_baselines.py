"""Transfer learning, random first parameters, the oracle and prototypical networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metarun import config
from metarun.algorithms.pretrain import RATE
from metarun.core.episode import Episode
from metarun.core.objective import supervised
from metarun.datasets.base import Split
from metarun.runs import train as loop
from metarun.runs.setup import Setup, build
from metarun.runs.signals import StopSignals
from tests.support.commands import same

SMALL = ["model.filters=8", "meta_batch=2", "eval.val_tasks=8", "steps=4", "eval.every=4"]


def bench(*words: str) -> Setup:
    small = [word for word in SMALL if "algo=random" not in words or word != "steps=4"]  # which makes one, whatever
    return build(config.compose([*small, *words])[0])


def test_pretraining_sees_all_classes_and_tasks_get_a_new_head() -> None:
    b = bench("algo=pretrain", "algo.eval_inner_steps=3")
    classes = b.tasks.outputs(5)
    assert classes == 374 and b.first_meta().model["head.weight"].shape[0] == classes
    drawn = b.tasks.sample(Split.train, 0, range(50), 5, 1, 5)
    labels = torch.cat([drawn.support_y, drawn.query_y], 1)
    assert labels.shape == (50, 30) and labels.max() > 300 and labels.unique().numel() > 300
    test = b.tasks.sample(Split.test, 0, range(1), 5, 1, 5)
    task = Episode(*(field[0] for field in test))
    path = list(b.experiment.algo.adapt(b.problem, b.first_meta(), task, steps=3))
    assert not path[0]["head.weight"].any() and path[0]["head.weight"].shape[0] == 5
    assert path[3]["head.weight"].any()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("algo", ["pretrain", "random"])
def test_the_step_size_is_the_best_on_validation(algo: str, tmp_path: Path) -> None:
    b = bench(f"algo={algo}", "algo.rates=[1.0e-8,0.03]", "algo.eval_inner_steps=5")
    state = loop.train(b, tmp_path, StopSignals())
    assert state.selection is not None
    assert state.selection.meta.step_sizes[RATE].item() == pytest.approx(0.03)  # the other leaves a task at chance
    assert state.selection.value > 0.3
    assert state.meta.step_sizes[RATE].item() == pytest.approx(b.experiment.algo.inner_lr)  # type: ignore[attr-defined]
    assert loop.tuned(b, state.meta).step_sizes[RATE].item() == pytest.approx(0.03)


@pytest.mark.parametrize("algo", ["pretrain", "random"])
def test_the_only_step_size_needs_no_validation(algo: str) -> None:
    b = bench(f"algo={algo}", "algo.rates=[0.03]", "eval.every=0")
    assert loop.tuned(b, b.first_meta()).step_sizes[RATE].item() == pytest.approx(0.03)


@pytest.mark.full
def test_random_parameters_stay_the_first_ones(tmp_path: Path) -> None:
    b = bench("algo=random")
    assert b.experiment.steps == 1
    state = loop.train(b, tmp_path, StopSignals())
    assert same(state.meta, b.first_meta())


def test_a_head_that_means_the_same_in_every_task_is_kept(data_root: Path) -> None:
    words = ["algo=pretrain", "dataset=mnist", "dataset.split=images", "way=10", f"data_root={data_root}"]
    b = build(config.compose([*SMALL, *words])[0])
    drawn = b.tasks.sample(Split.train, 0, range(20), 10, 1, 1)
    assert drawn.support_y.max() == 9
    task = Episode(*(field[0] for field in b.tasks.sample(Split.test, 0, range(1), 10, 1, 1)))
    first = next(b.experiment.algo.adapt(b.problem, b.first_meta(), task, 1))
    assert torch.equal(first["head.weight"], b.first_meta().model["head.weight"])


def test_the_oracle_is_told_amplitude_and_phase() -> None:
    told = build(config.compose(["algo=oracle", "dataset=sinusoid"])[0]).tasks
    plain = build(config.compose(["algo=maml", "dataset=sinusoid"])[0]).tasks
    (t, p) = (tasks.sample(Split.test, 0, range(4), 1, 5, 6) for tasks in (told, plain))
    assert torch.equal(t.support_x[..., :1], p.support_x) and torch.equal(t.query_y, p.query_y)
    x, amplitude, phase = t.query_x.unbind(-1)
    torch.testing.assert_close(amplitude * torch.sin(x - phase), t.query_y[..., 0])


def test_prototypes_are_the_nearest_class_means() -> None:
    b = bench("algo=protonet", "shot=3", "query=3")
    meta = b.first_meta()
    task = Episode(*(field[0] for field in b.tasks.sample(Split.test, 0, range(1), 5, 3, 3)))
    path = list(b.experiment.algo.adapt(b.problem, meta, task, steps=2))
    assert not path[0]["head.weight"].any()
    assert all(torch.equal(path[1][name], path[2][name]) for name in meta.model)  # more steps change nothing
    outputs = supervised(b.problem, "").forward(path[1], task.query_x)
    features = torch.nn.Sequential(*list(b.module.children())[:1])
    support, query = (features(x).mean((-2, -1)) for x in (task.support_x, task.query_x))
    centres = torch.stack([support[task.support_y == n].mean(0) for n in range(5)])
    distances = torch.cdist(query, centres).square()
    torch.testing.assert_close(outputs.log_softmax(-1), (-distances).log_softmax(-1), rtol=1e-3, atol=1e-3)
