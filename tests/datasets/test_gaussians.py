from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from metarun import config
from metarun.algorithms.maml import MAML
from metarun.core import tree
from metarun.core.batch_norm import Norm
from metarun.core.episode import Episode
from metarun.core.objective import supervised
from metarun.datasets.base import Split
from metarun.datasets.gaussians import Blobs, Gaussians
from metarun.errors import ConfigError, UserError
from metarun.runs.evaluate import evaluate
from metarun.runs.setup import build
from metarun.runs.signals import StopSignals
from metarun.runs.train import train
from metarun.verify import check, problems
from metarun.verify.problems import Case


def blobs(spread: float = 2.0, deviation: float = 1.0) -> Blobs:
    tasks = Gaussians(spread=spread, deviation=deviation).load(Path("unused"), torch.device("cpu"))
    assert isinstance(tasks, Blobs)
    return tasks


def test_shapes_and_labels() -> None:
    episode = blobs().sample(Split.train, 0, range(7), 2, 3, 4)
    assert episode.support_x.shape == (7, 6, 2) and episode.query_x.shape == (7, 8, 2)
    assert episode.support_x.dtype == torch.float32 and episode.support_y.dtype == torch.int64
    assert episode.support_y[2].tolist() == [0, 0, 0, 1, 1, 1] and episode.query_y[0].tolist() == [0] * 4 + [1] * 4
    assert len(set(episode.key.tolist())) == 7


def test_means_and_points_spread_as_stated() -> None:
    tasks = blobs(spread=3.0, deviation=0.5)
    means = tasks.means(Split.test, 0, range(4000))
    assert (means.mean(0).abs() < 0.15).all() and ((means.std(0) - 3.0).abs() < 0.15).all()
    assert torch.corrcoef(means.flatten(1).T).triu(1).abs().max() < 0.06
    episode = tasks.sample(Split.test, 0, range(4000), 2, 2, 3)
    for x, each in ((episode.support_x, 2), (episode.query_x, 3)):
        around = x.unflatten(1, (2, each)) - means[:, :, None]
        assert (around.mean((0, 2)).abs() < 0.03).all() and ((around.std((0, 2)) - 0.5).abs() < 0.02).all()
    together = torch.cat([episode.support_x, episode.query_x], 1)
    assert len(together.flatten(0, 1).unique(dim=0)) == 40_000, "a point came twice"


def test_tasks_are_functions_of_their_index_and_support_does_not_hang_on_query() -> None:
    whole = blobs().sample(Split.val, 1, range(10), 2, 3, 4)
    part = blobs().sample(Split.val, 1, range(4, 6), 2, 3, 100)
    assert torch.equal(part.support_x, whole.support_x[4:6])
    for seed, split in ((2, Split.val), (1, Split.test)):
        assert not torch.equal(blobs().sample(split, seed, range(10), 2, 3, 4).support_x, whole.support_x)


@pytest.mark.parametrize(("spread", "deviation"), [(2.0, 1.0), (1.0, 1.0), (1.0, 3.0)])
def test_the_best_accuracy_is_that_of_who_knows_the_means(spread: float, deviation: float) -> None:
    tasks = blobs(spread, deviation)
    episode = tasks.sample(Split.test, 0, range(3000), 2, 1, 50)
    nearer = torch.cdist(episode.query_x, tasks.means(Split.test, 0, range(3000))).argmin(-1)
    right = (nearer == episode.query_y).double().mean(1)
    tolerance = 4 * right.std().item() / 3000**0.5
    assert right.mean().item() == pytest.approx(tasks.family.best_accuracy(), abs=tolerance)
    assert tasks.stamp["best_possible"] == f"{100 * tasks.family.best_accuracy():.2f} %"


def test_adapting_goes_from_a_toss_to_near_the_best_and_not_beyond(tmp_path: Path) -> None:
    bench = build(config.compose(["dataset=gaussians", "steps=50", "eval.every=0"])[0])
    state = train(bench, tmp_path, StopSignals())
    (score,) = evaluate(bench, state.meta, Split.test, 300, Norm.transductive)
    assert isinstance(bench.tasks, Blobs)
    best = bench.tasks.family.best_accuracy()
    first, *_, last = score.estimates
    assert abs(first.mean - 0.5) < 0.08
    assert best - 0.08 < last.mean < best + last.ci95


def test_its_meta_gradient_equals_finite_differences() -> None:
    """Of the binary loss through five inner steps."""
    bench = build(config.compose(["dataset=gaussians"])[0])
    episodes = bench.tasks.sample(Split.train, 0, range(4), 2, 5, 15)
    episodes = Episode(*(v.double() if v.is_floating_point() else v for v in episodes))
    meta = tree.combine(lambda p: p.double(), bench.first_meta())
    case = Case("logistic", supervised(bench.problem, ""), meta, episodes)
    algorithm = bench.experiment.algo
    assert isinstance(algorithm, MAML) and algorithm.inner_steps == 5
    got, _ = bench.meta_gradient()(meta, episodes)
    assert problems.relative_error(got, check.reference(algorithm, case)) < 1e-12
    first_order = dataclasses.replace(algorithm, hypergrad=type(algorithm.hypergrad).first_order)
    assert problems.relative_error(check.reference(first_order, case), got) > 1e-2
    fn = check.query_loss_after_adapting(algorithm, case)
    for name, parameter in meta.model.items():
        for i in range(parameter.numel()):
            unit = tree.zeros_like(meta)
            unit.model[name].view(-1)[i] = 1
            slope = problems.finite_difference(fn, meta, unit, step=1e-6)
            assert got.model[name].view(-1)[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-9), (name, i)


def test_what_cannot_be_is_refused() -> None:
    for name in ("spread", "deviation"):
        with pytest.raises(ConfigError, match=f"{name}=0.0: must be > 0"):
            Gaussians(**{"spread": 1.0, "deviation": 1.0, name: 0.0})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="way=3: must be 2"):
        config.compose(["dataset=gaussians", "way=3"])
