"""Evaluation: adapt to new tasks with the algorithm's own inner loop and measure after each number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun.compat.torch_pytree import tree_map
from metarun.core.acting import ActingTask, acting
from metarun.core.batch_norm import Norm
from metarun.core.episode import Episode
from metarun.core.intervals import Estimate
from metarun.core.meta import Meta
from metarun.core.objective import Supervised, Unjudged
from metarun.core.problem import Metrics
from metarun.core.watching import Watched, Watching
from metarun.datasets.base import Split
from metarun.engine.collect import collected
from metarun.engine.over_tasks import TRACE_PAYS, OverTasks, concatenate, count
from metarun.progress import progress_bar
from metarun.results.result import AfterSteps
from metarun.runs.setup import Setup

AT_ONCE = 32  # tasks sampled in one call
Ensemble = tuple[Meta, ...]


@dataclass(frozen=True)
class Measured:
    """Metric and loss of tasks under one kind of batch norm statistics.

    A task diverged where its metric or its loss is not finite. Its metric then counts as ``worst``.

    Attributes:
        norm: the batch norm statistics.
        steps: the numbers of inner steps that were measured.
        metric: [tasks, len(steps)].
        loss: [tasks, len(steps)].
        worst: the worst value of the metric.
        beside: name -> [tasks, len(steps)], what the problem measures beside the metric.
    """

    norm: Norm
    steps: list[int]
    metric: Tensor
    loss: Tensor
    worst: float
    beside: dict[str, Tensor]

    @property
    def estimates(self) -> list[Estimate]:
        """The metric's mean and interval over tasks, for each number of inner steps."""
        diverged = ~(self.metric.isfinite() & self.loss.isfinite())
        return [Estimate.of(self.metric[:, i], diverged[:, i], self.worst) for i in range(len(self.steps))]

    def by_steps(self) -> list[AfterSteps]:
        """Return one row for each number of inner steps, with the mean loss."""
        return [
            AfterSteps(
                steps=steps,
                estimate=estimate,
                loss=_mean(self.loss[:, i]),
                beside={name: _mean(values[:, i]) for name, values in self.beside.items()},
            )
            for i, (steps, estimate) in enumerate(zip(self.steps, self.estimates, strict=True))
        ]


def _mean(of_tasks: Tensor) -> float:
    return of_tasks.to(torch.float64).mean().item()


class Evaluator:
    """Scores meta-parameters, or an ensemble of several, on tasks 0..tasks-1 of a split.

    In an ensemble each set of parameters adapts to a task by itself. Their outputs for the query set, before any
    softmax, are averaged, and metric and loss are those of the mean. If one of them diverges, so does the ensemble.

    Args:
        setup: the experiment's parts.
        tasks: number of tasks.
        norm: batch norm statistics to evaluate with.
        last_only: measure after the last inner step only, which is cheaper.
        times: expected calls; tracing is chosen from it.
        ensemble: whether it is called with an ensemble.

    Source:
        Antoniou et al. 2019: ``evaluated_test_set_using_the_best_models`` in the published code's
        ``experiment_builder.py``, for the ensemble.
    """

    def __init__(
        self, setup: Setup, tasks: int, norm: Norm, *, last_only: bool = False, times: int = 1, ensemble: bool = False
    ):
        self.setup, self.tasks = setup, tasks
        self.norms = norms = norm.members(setup.mixing)
        algo = setup.experiment.algo
        self.measured = measured = range(algo.eval_inner_steps if last_only else 0, algo.eval_inner_steps + 1)

        def score(meta: Meta, task: Any) -> tuple[Tensor, Tensor, Metrics]:  # each [norms, S+1]; of Metrics [S+1]
            metrics, losses = zip(*algo.measure_adaptation(setup.tested, meta, task, measured, norms), strict=True)
            rows = [setup.tested.beside(task, k) for k in measured]
            beside = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            return torch.stack(metrics, -1), torch.stack(losses, -1), beside

        def together(metas: Ensemble, task: Any) -> tuple[Tensor, Tensor, Metrics]:
            assert isinstance(setup.tested, Supervised), "setup.py refuses ensembles of anything else"
            unjudged = Unjudged(**vars(setup.tested))
            paths = [[*algo.measure_adaptation(unjudged, meta, task, measured, norms)] for meta in metas]
            rows = []
            for of_members in zip(*paths, strict=True):  # (outputs, labels) of each, after a number of inner steps
                outputs, labels = zip(*of_members, strict=True)
                rows.append(setup.tested.measured([*torch.stack(outputs).mean(0)], labels[0]))
            metrics, losses = zip(*rows, strict=True)
            return torch.stack(metrics, -1), torch.stack(losses, -1), {}

        def over_tasks(calls: int) -> OverTasks:  # for few calls, device.compile=true means meta-steps only
            return OverTasks(setup.engine, together if ensemble else score, calls if calls >= TRACE_PAYS else 0)

        self.mine = len(setup.ranks.share(range(tasks)))
        chunk = min(setup.engine.chunk or AT_ONCE, AT_ONCE)
        self.at_once = AT_ONCE // chunk * chunk  # whole chunks: all have one shape and share one trace
        self.whole = over_tasks(times * (self.mine // self.at_once) * (self.at_once // chunk))
        self.rest = over_tasks(times)

    def _collected(self, meta: Meta | Ensemble, tasks: Any) -> Any:
        b = self.setup
        if not isinstance(meta, Meta):
            return tasks  # labelled examples, which are all there
        algo, steps = b.experiment.algo, self.measured.stop - 1
        return collected(b.engine, algo, b.tested, meta, tasks, steps, training=False)

    def __call__(self, meta: Meta | Ensemble, split: Split, progress: str = "") -> list[Measured]:
        """Score the meta-parameters.

        Args:
            meta: the meta-parameters; several, side by side in a tuple, for an ensemble.
            split: the split to draw the tasks from.
            progress: label of the progress bar; empty: no bar.

        Returns:
            One ``Measured`` for each norm.
        """
        results: list[tuple[Tensor, Tensor, Metrics]] = []
        with progress_bar(total=self.mine, desc=progress, unit="task", show=bool(progress)) as bar:
            for episodes in measured_episodes(self.setup, split, self.tasks, self.at_once):
                drawn = count(episodes)
                episodes = self._collected(meta, episodes)
                for part in (self.whole if drawn == self.at_once else self.rest)(meta, episodes):
                    results.append(tree_map(Tensor.cpu, part))
                    bar.update(len(part[0]))
        metric, loss, beside = concatenate(self.setup.ranks.gather(results))
        steps, problem = list(self.measured), self.setup.tested
        worst, restated = problem.metric.worst, [problem.restated(metric[:, i]) for i in range(len(self.norms))]
        return [
            Measured(norm, steps, metric[:, i], loss[:, i], worst, beside | restated[i])
            for i, norm in enumerate(self.norms)
        ]


def evaluate(
    setup: Setup,
    meta: Meta | Ensemble,
    split: Split,
    tasks: int,
    norm: Norm,
    *,
    last_only: bool = False,
    progress: str = "",
) -> list[Measured]:
    """Score the meta-parameters once; arguments as for ``Evaluator`` and its call."""
    together = not isinstance(meta, Meta)
    return Evaluator(setup, tasks, norm, last_only=last_only, ensemble=together)(meta, split, progress)


def measured_episodes(setup: Setup, split: Split, tasks: int, at_once: int = AT_ONCE) -> Iterator[Any]:
    """Yield this rank's share of tasks 0..tasks-1 of a split, ``at_once`` tasks at a time.

    The tasks depend on ``eval.seed``. They do not depend on the algorithm, the checkpoint or the run's seed.
    """
    x = setup.experiment
    mine = setup.ranks.share(range(tasks))
    for first in range(0, len(mine), at_once):
        yield setup.tasks.sample(
            split, x.eval.seed, mine[first : first + at_once], x.eval_way, x.eval.shot, x.eval.query
        )


def yardsticks(setup: Setup, split: Split, tasks: int, beside: dict[str, float]) -> dict[str, Estimate]:
    """Measure what known solutions get on tasks 0..tasks-1 of a split; those without a finite mean are left out.

    There are none where nothing is measured beside the metric, and then no task is drawn for them.

    Args:
        setup: the experiment's parts.
        split: the split to draw the tasks from.
        tasks: number of tasks.
        beside: means over tasks of what was measured beside the metric, after the last inner step.
    """
    if not beside:
        return {}
    parts = [setup.tasks.yardsticks(drawn, beside) for drawn in measured_episodes(setup, split, tasks)]
    rows = concatenate(setup.ranks.gather([tree_map(Tensor.cpu, part) for part in parts]))
    worst = setup.tested.metric.worst
    found = {name: Estimate.of(values, ~values.isfinite(), worst) for name, values in rows.items()}
    return {name: of for name, of in found.items() if math.isfinite(of.mean)}


def watched(setup: Setup, meta: Meta, tasks: ActingTask, trajectories: int) -> list[Watched]:
    """Watch a few tasks' policies act, for figures, after 0, 1, ... inner steps of the evaluation.

    Args:
        setup: the experiment's parts, of tasks that act.
        meta: the meta-parameters.
        tasks: T tasks.
        trajectories: how many of the measured ones are watched.

    Returns:
        One entry for each number of inner steps; empty where the environment has nothing to show.
    """
    algo = setup.experiment.algo
    watching = Watching.of(acting(setup.tested, "dataset"), trajectories)
    collected(setup.engine, algo, watching, meta, tasks, algo.eval_inner_steps, training=False)
    return watching.seen


def predictions(setup: Setup, meta: Meta, episodes: Episode, norm: Norm) -> Tensor:
    """Compute the network's outputs for the query sets of a few tasks, for figures.

    Args:
        setup: the experiment's parts.
        meta: the meta-parameters.
        episodes: T tasks.
        norm: batch norm statistics to evaluate with.

    Returns:
        [T, S+1, N*Q, outputs].
    """
    algo, problem = setup.experiment.algo, setup.tested
    assert isinstance(problem, Supervised), "only labelled examples are drawn with their predictions"

    def outputs(meta: Meta, task: Episode) -> Tensor:
        adapted = algo.adapt(problem, meta, task, algo.eval_inner_steps)
        return torch.stack([problem.predict(params, task, norm) for params in adapted])

    return concatenate(list(OverTasks(setup.engine, outputs)(meta, episodes)))
