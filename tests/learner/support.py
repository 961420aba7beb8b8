"""Runs of a second, for tests of what is done with them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from metarun import config
from metarun.core import rng
from metarun.core.batch_norm import Norm
from metarun.core.episode import Episode
from metarun.datasets.base import Split
from metarun.learner.learner import Learner
from metarun.runs.evaluate import predictions
from metarun.runs.run import run
from metarun.runs.setup import Setup, build

SHORT = ["steps=2", "meta_batch=2", "eval.every=2", "eval.val_tasks=2", "eval.tasks=2", "eval.query=2"]
SHORT += ["checkpoint_every=2", "log_every=2", "device=cpu", "device.compile=false"]


def short_run(run_dir: Path, *overrides: str) -> Path:
    """Train for two meta-iterations, or for one where a method has no more."""
    short = SHORT[1:] if "algo=random" in overrides else SHORT
    return run(*config.compose([*short, *overrides, f"run_dir={run_dir}"]))


def with_data(learner: Learner) -> Setup:
    """The parts of the learner's run, with its data."""
    return build(learner.setup.experiment, testing=True)


def drawn(setup: Setup, count: int = 2, way: int | None = None) -> Episode:
    """Tasks of the run's evaluation, with the keys that a learner draws mini-batches from."""
    x = setup.experiment
    tasks = setup.tasks.sample(Split.test, 0, range(count), way or x.way, x.eval.shot, x.eval.query)
    return tasks._replace(key=rng.root(0).expand(count))


def evaluated(setup: Setup, learner: Learner, tasks: Episode, norm: Norm = Norm.support) -> Tensor:
    """Outputs for the query sets as the run's evaluation computes them, [T, N*Q, outputs]."""
    return predictions(setup, learner.meta, tasks, norm)[:, -1]
