"""MANN: what is read when, that no label is seen early, both measures, and that it learns."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.algorithms.mann import MANN, Measure
from metarun.core import rng, tree
from metarun.core.batch_norm import Norm
from metarun.core.episode import Episode
from metarun.core.inner import minibatch
from metarun.core.meta import Meta
from metarun.core.objective import accuracy, classification
from metarun.core.outer import OuterOptimizer
from metarun.core.outer_step import Nothing
from metarun.core.tree import Params
from metarun.datasets.base import Split
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Compile, Engine, Vectorize
from metarun.errors import ConfigError, UserError
from metarun.models.base import Init, functional, initialise
from metarun.models.mann import MemoryAugmented
from metarun.runs.evaluate import evaluate, predictions
from metarun.runs.setup import Setup, build
from metarun.verify import problems
from metarun.verify.mann_definition import sequence_logits, sequence_loss
from metarun.verify.problems import Case

SMALL = ["algo=mann", "model.units=6", "model.heads=2", "model.width=3", "algo.slots=5"]
WAY, SHOT = 3, 2  # of the case
BEGIN = torch.tensor(0.0, dtype=torch.float64)  # of training, which MANN's meta-gradient does not look at


def case() -> Case:
    return next(c for c in problems.cases(torch.device("cpu")) if c.name == "mann")


def tasks(of: Case) -> list[Episode]:
    return [Episode(*row) for row in zip(*of.episodes, strict=True)]


def method(**settings: Any) -> MANN:
    algorithm = config.compose(["algo=mann"])[0].algo
    assert isinstance(algorithm, MANN)
    return dataclasses.replace(algorithm, **{"slots": 5, **settings})


def bench(*words: str) -> Setup:
    return build(config.compose([*SMALL, *words])[0])


def adapted(algorithm: MANN, of: Case, task: Episode, steps: int) -> list[Params]:
    return list(algorithm.adapt(of.problem, of.meta, task, steps))


def test_a_step_reads_one_example_of_each_class() -> None:
    """After k steps the state knows rounds 1 to k, each a k-th example of every class, and has not seen the others."""
    of, algorithm = case(), method()
    for task in tasks(of):
        path = adapted(algorithm, of, task, SHOT)
        for example in range(WAY * SHOT):
            x = task.support_x.clone()
            x[example] += 1
            other = adapted(algorithm, of, task._replace(support_x=x), SHOT)
            same = [torch.equal(a["state.memory"], b["state.memory"]) for a, b in zip(path, other, strict=True)]
            assert same == [True] * (1 + example % SHOT) + [False] * (SHOT - example % SHOT)


def test_only_the_state_adapts_and_predicts_the_query_set() -> None:
    """By the equations: the query images come next, each alone, after the support set in the order of the rounds."""
    of, algorithm = case(), method()
    task = tasks(of)[1]
    *_, last = adapted(algorithm, of, task, SHOT)
    assert all(torch.equal(last[name], value) for name, value in of.meta.model.items())
    got = of.problem.forward(last, task.query_x)
    rounds = [torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])]
    orders = [torch.cat([a[list(p)], b[list(q)]]) for a, b in [rounds] for p in _orders() for q in _orders()]
    candidates = []
    for order in orders:
        x, y = task.support_x[order], task.support_y[order]
        rows = [
            sequence_logits(of.meta.model, 5, torch.cat([x, query[None]]), torch.cat([y, y[:1]]))[-1]
            for query in task.query_x
        ]
        candidates.append(torch.stack(rows))
    assert sum(torch.allclose(got, want, rtol=1e-10) for want in candidates) == 1


def _orders() -> list[tuple[int, ...]]:
    return [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


def test_more_steps_than_rounds_read_again() -> None:
    of, algorithm = case(), method()
    task = tasks(of)[0]
    path = adapted(algorithm, of, task, 2 * SHOT + 1)
    assert len(path) == 2 * SHOT + 2
    assert all(not torch.equal(a["state.cell"], b["state.cell"]) for a, b in zip(path[1:], path, strict=False))


def instances(algorithm: MANN, of: Case, task: Episode, steps: range) -> list[tuple[Tensor, Tensor]]:
    """(outputs, targets) by which a task is judged after each of these numbers of steps; the query set is not there."""
    judged: list[tuple[Tensor, Tensor]] = []

    def judge(outputs: Tensor, y: Tensor) -> Tensor:
        judged.append((outputs, y))
        return accuracy(outputs, y)

    watched = dataclasses.replace(of.problem, judge=judge)
    alone = task._replace(query_x=task.query_x[:0], query_y=task.query_y[:0])
    measured = list(algorithm.measure_adaptation(watched, of.meta, alone, steps, [Norm.transductive]))
    for (metric, loss), (outputs, y) in zip(measured, judged, strict=True):
        assert torch.equal(metric[0], accuracy(outputs, y)) and torch.equal(loss[0], of.problem.loss(outputs, y))
    return judged


def test_instances_are_the_predictions_along_one_random_order() -> None:
    """Counted through the sequence by hand, whose order is the one of meta-training for the task's key."""
    of, algorithm = case(), method(measure=Measure.instances)
    for task in tasks(of):
        got = instances(algorithm, of, task, range(SHOT))
        order = minibatch(task.key, WAY * SHOT, WAY * SHOT, 0)
        x, y = task.support_x[order], task.support_y[order]
        seen = [0] * WAY
        want: list[list[tuple[int, Tensor]]] = [[] for _ in range(SHOT)]
        for number, logits in zip(y.tolist(), sequence_logits(of.meta.model, 5, x, y), strict=True):
            want[seen[number]].append((number, logits))
            seen[number] += 1
        for (outputs, targets), rows in zip(got, want, strict=True):
            assert targets.tolist() == [number for number, _ in rows]
            torch.testing.assert_close(outputs, torch.stack([logits for _, logits in rows]), rtol=1e-10, atol=1e-10)


def test_instances_stay_with_the_last_when_all_are_read() -> None:
    of, algorithm = case(), method(measure=Measure.instances)
    got = instances(algorithm, of, tasks(of)[0], range(2 * SHOT + 1))
    assert len(got) == 2 * SHOT + 1 and all(sorted(targets.tolist()) == [0, 1, 2] for _, targets in got)
    assert all(torch.equal(outputs, got[SHOT - 1][0]) for outputs, _ in got[SHOT:])


def test_no_label_is_seen_before_it_is_predicted() -> None:
    of, algorithm = case(), method(measure=Measure.instances)
    task = tasks(of)[2]
    order = minibatch(task.key, WAY * SHOT, WAY * SHOT, 0)

    def logits(y: Tensor) -> Tensor:
        x = task.support_x[order]
        return torch.stack(sequence_logits(of.meta.model, 5, x, y[order]))

    def trained(y: Tensor) -> Tensor:
        return algorithm.meta_grad(of.problem, of.meta, task._replace(support_y=y), BEGIN)[1]["loss"]

    for t, example in enumerate(order.tolist()):
        y = task.support_y.clone()
        y[example] = (y[example] + 1) % WAY
        same = (logits(y) == logits(task.support_y)).all(1).tolist()
        assert same == [True] * (t + 1) + [False] * (WAY * SHOT - t - 1)
        # the package's own sequence has these predictions, so its loss is theirs
        losses = torch.logsumexp(logits(y), 1) - logits(y).gather(1, y[order][:, None])[:, 0]
        torch.testing.assert_close(trained(y), losses.mean())


def test_the_meta_gradient_equals_finite_differences() -> None:
    of, algorithm = case(), method()

    def mean_loss(meta: Meta) -> Tensor:
        return torch.stack([sequence_loss(algorithm, meta.model, task) for task in tasks(of)]).mean()

    got, metrics = MetaGradient(Engine(Vectorize.vmap), algorithm, of.problem)(of.meta, of.episodes)
    assert metrics["loss"].mean().item() == pytest.approx(mean_loss(of.meta).item())
    generator = torch.Generator().manual_seed(5)
    drawn = tree.combine(lambda p: torch.randn(p.shape, generator=generator, dtype=p.dtype), got)
    for direction in (got, drawn):
        unit = tree.scale(1 / tree.norm(direction), direction)
        slope = problems.finite_difference(mean_loss, of.meta, unit, step=1e-6)
        assert tree.dot(got, unit).item() == pytest.approx(slope, rel=1e-6)


def test_tasks_have_orders_of_their_own() -> None:
    of, algorithm = case(), method()
    first = tasks(of)[0]
    others = (first._replace(key=torch.tensor(key)) for key in range(5))
    losses = {round(algorithm.meta_grad(of.problem, of.meta, o, BEGIN)[1]["loss"].item(), 9) for o in others}
    assert len(losses) == 5


def test_a_training_task_is_one_sequence() -> None:
    b = bench("algo.inner_steps=4", "shot=1", "query=3")
    assert b.experiment.training_shots() == (4, 0)
    assert b.protocol()["train_shot"] == 4 and b.protocol()["train_query"] == 0
    assert "judged by" not in b.protocol()
    assert "instance" in str(bench("algo.measure=instances").protocol()["judged by"])


@pytest.mark.parametrize("measure", [m.name for m in Measure])
def test_evaluation_is_the_same_however_tasks_are_run(measure: str) -> None:
    b = bench(f"algo.measure={measure}", "eval.shot=3", "algo.eval_inner_steps=2", "eval.query=2")
    meta = b.first_meta()
    (vectorised,) = evaluate(b, meta, Split.test, 5, Norm.all)
    (loop,) = evaluate(dataclasses.replace(b, engine=Engine(Vectorize.loop, 1)), meta, Split.test, 5, Norm.all)
    (last,) = evaluate(b, meta, Split.test, 5, Norm.transductive, last_only=True)
    assert vectorised.metric.shape == (5, 3) and vectorised.steps == [0, 1, 2] and last.steps == [2]
    torch.testing.assert_close(vectorised.loss, loop.loss)
    torch.testing.assert_close(last.loss, vectorised.loss[:, -1:])
    episodes = b.tasks.sample(Split.test, 0, range(2), 5, 3, 2)
    assert predictions(b, meta, episodes, Norm.transductive).shape == (2, 3, 10, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model=conv4"],
            "algo=mann: needs a network that has a state, nothing of it frozen; choose model=mann or model=lstm",
        ),
        (["model=mlp"], "choose model=mann or model=lstm"),
        (["algo.slots=3"], "algo.slots=3: must be >= 4, the number of heads"),
        (["algo.inner_steps=13"], "13 support [+] 0 query images per class"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(config.compose(["algo=mann", *words])[0])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="slots=0"):
        method(slots=0)
    for key in ("units", "width"):
        with pytest.raises(UserError, match=f"model.{key}=0: must be >= 1"):
            config.compose(["algo=mann", f"model.{key}=0"])


def test_a_method_chooses_its_network_and_the_command_line_another() -> None:
    for words, heads in ((["algo=mann"], 4), (["algo=mann", "model=lstm"], 0), (["model=lstm", "algo=mann"], 0)):
        model = config.compose(words)[0].model
        assert isinstance(model, MemoryAugmented) and model.heads == heads
    assert config.compose(["algo=mann", "eval.shot=3"])[0].algo.eval_inner_steps == 3


def lookup(first: int, count: int = 16) -> Episode:
    """Two classes that are one pixel each, with labels 0 and 1 in either way: to be read off one example."""
    keys = rng.fold(rng.root(0), torch.arange(first, first + count))
    label = rng.integers(keys, 1, below=2)  # of the first pixel
    x = torch.eye(2)[torch.stack([label, 1 - label], 1).flatten(1)].repeat_interleave(4, 1)
    y = torch.tensor([0, 1]).repeat_interleave(4).expand(count, -1)
    return Episode(x, y, x, y, keys)


@pytest.mark.full
def test_it_learns_to_look_things_up() -> None:
    """Chance is a half, and each class's second example can be known."""
    torch.manual_seed(0)
    cell = MemoryAugmented(units=16, heads=2, width=4, init=Init.xavier)
    module = initialise(cell, (2,), 2, seed=0)
    algorithm = method(measure=Measure.instances, outer_optimizer=OuterOptimizer.adam, outer_lr=0.01)
    problem = classification(functional(module), 2)
    meta = algorithm.init({name: p.detach().clone() for name, p in module.named_parameters()})
    outer = algorithm.outer_step(meta)
    meta_gradient = MetaGradient(Engine(Vectorize.vmap, None, Compile.auto), algorithm, problem, calls=150)
    for step in range(150):
        grads, metrics = meta_gradient(meta, lookup(16 * step))
        outer.step(grads, 0.0, Nothing())
    of = Case("lookup", problem, meta, lookup(10_000, 100))
    right = [
        [(outputs.argmax(1) == targets).float().mean() for outputs, targets in instances(algorithm, of, t, range(4))]
        for t in tasks(of)
    ]
    at = torch.tensor(right).mean(0)
    print(at, metrics["loss"].mean())
    assert at[0] < 0.8 and at[1] > 0.95 and at[3] > 0.95
