"""Before a run begins: try each of its computations once, so that errors appear in the first seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarun.compat.torch_errors import is_one_value, lacks_derivative
from metarun.core import tree
from metarun.core.episode import Episode, TaskFigure
from metarun.core.problem import Problem
from metarun.core.tree import Params
from metarun.datasets.base import Split, Tasks
from metarun.engine.meta_batch import Questions
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine, Vectorize
from metarun.engine.ranks import Ranks
from metarun.errors import ConfigError, UserError, first_line
from metarun.out_of_memory import out_of_memory_in_one_line
from metarun.runs.evaluate import evaluate, predictions
from metarun.runs.setup import Setup


def preflight(setup: Setup, training: bool = True) -> None:
    """Run a meta-iteration and an evaluation with the run's settings, each on two tasks.

    Args:
        setup: the experiment's parts.
        training: whether the run trains. Then all tasks are made of meta-training examples, and no validation or test
            example is drawn. Otherwise there is no meta-gradient, and the tasks are made of test examples, since the
            data may have no others.

    Raises:
        UserError: something cannot be computed with these settings.
    """
    setup = dataclasses.replace(setup, tasks=Rehearsal(setup, training), ranks=Ranks())
    if training:
        _try(setup, _train, "training")
    _try(setup, _evaluate, "evaluation")


class Rehearsal(Tasks):
    """Tasks for ``preflight``. Evaluation tasks have the shape of real ones and the inputs of training tasks.

    Args:
        setup: the experiment's parts, with its real tasks.
        training: whether the run trains; if not, inputs come from test tasks.
    """

    def __init__(self, setup: Setup, training: bool = True):
        x = self.experiment = setup.experiment
        self.tasks = setup.tasks
        self.source = Split.train if training else Split.test
        self.shots = x.training_shots() if training else (x.eval.shot, x.eval.query)
        self.input_shape, self.stamp, self.figure = setup.tasks.input_shape, setup.tasks.stamp, setup.tasks.figure

    def has(self, split: Split) -> bool:
        return True

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        """Accept every split: examples are repeated where there are too few."""

    def outputs(self, way: int) -> int:
        return self.tasks.outputs(way)

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Problem:
        return self.tasks.problem(forward, way)

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Any:
        if split is Split.train:
            return self.tasks.sample(split, seed, indices, way, shot, query)
        x, classes = self.experiment, way if self.experiment.dataset.has_way else 1
        drawn = self.tasks.sample(self.source, x.seed, indices, way, *self.shots)
        if not isinstance(drawn, Episode):  # not made of stored examples, of which there may be too few
            return self.tasks.sample(self.source, x.seed, indices, way, shot, query)

        def examples(per_class: int) -> tuple[Tensor, Tensor]:
            again = torch.arange(per_class, device=drawn.key.device) % (drawn.support_x.shape[1] // classes)
            of_x, of_y = (t.unflatten(1, (classes, -1))[:, :, again].flatten(1, 2) for t in drawn[:2])
            if not of_y.is_floating_point():  # labels; pooled tasks have class numbers instead of 0..N-1
                of_y = torch.arange(classes, device=of_y.device).repeat_interleave(per_class).expand(len(of_y), -1)
            return of_x, of_y

        return Episode(*examples(shot), *examples(query), drawn.key)


def _train(setup: Setup) -> None:
    x, algo = setup.experiment, setup.experiment.algo
    tasks = setup.tasks.sample(Split.train, x.seed, range(2), x.way, *x.training_shots())
    begin, end = 0.0, 1 - 1 / x.steps
    for progress in (begin, end) if algo.at(end) != algo.at(begin) else (begin,):
        meta = tree.combine(torch.clone, setup.first_meta())
        collected = setup.collected(meta, tasks)
        grads, _ = MetaGradient(setup.engine, algo, setup.problem)(meta, collected, progress)
        questions = Questions(setup.engine, algo, setup.problem, tasks=2)
        algo.outer_step(meta).step(grads, progress, questions.about(collected, progress))


def _evaluate(setup: Setup) -> None:
    x, meta = setup.experiment, setup.first_meta()
    (score, *_) = evaluate(setup, meta, Split.test, 2, x.eval.norm, last_only=not x.eval.every_step)
    if setup.tasks.figure is TaskFigure.none or setup.problem.collects:
        return
    query = setup.tasks.figure.queries(x.eval.query)
    shown = setup.tasks.sample(Split.test, x.eval.seed, range(1), x.eval_way, x.eval.shot, query)
    few = dataclasses.replace(x.algo, eval_inner_steps=min(1, x.algo.eval_inner_steps))  # all steps have just been run
    predictions(dataclasses.replace(setup, experiment=dataclasses.replace(x, algo=few)), meta, shown, score.norm)


def _try(setup: Setup, work: Callable[[Setup], None], what: str) -> None:
    """Do the ``work`` and raise every error of the network as ``UserError``."""
    try:
        with out_of_memory_in_one_line():
            work(setup)
    except UserError:
        raise
    except Exception as error:
        if is_one_value(error):
            raise _one_value(setup, error) from error
        if setup.engine.how is Vectorize.loop:
            raise _failed(what, error) from error
        _try(dataclasses.replace(setup, engine=Engine(Vectorize.loop, 1)), work, what)
        given = setup.experiment.device.vectorize.value
        allowed = f"loop with this network: torch cannot compute its {what} for tasks side by side ({_reason(error)})"
        raise ConfigError("device.vectorize", given, allowed) from error


def _failed(what: str, error: Exception) -> UserError:
    hint = ""
    if lacks_derivative(error) and what == "training":
        hint = "; algo=fomaml and algo=reptile do without second derivatives"
    return UserError(f"model: the network fails in {what}: {_reason(error)}{hint}")


def _reason(error: Exception) -> str:
    """Return an error's first sentence, with its type where that is not a RuntimeError or ValueError."""
    sentence, kind = first_line(error).split(". ")[0], type(error).__name__
    return sentence if isinstance(error, RuntimeError | ValueError) or sentence == kind else f"{kind}: {sentence}"


def _one_value(setup: Setup, error: Exception) -> UserError:
    """Describe the keys that make batches of one example: batch norm of a single value has variance 0."""
    x = setup.experiment
    per_class = {"eval.shot": x.eval.shot, "eval.query": x.eval.query}
    of_algo = {
        f"algo.{name}": getattr(x.algo, name, None) for name in ("train_shot", "inner_batch", "eval_inner_batch")
    }
    if of_algo["algo.train_shot"] is None:
        per_class = {"shot": x.shot, "query": x.query, **per_class}
    many = x.way if x.dataset.has_way else 1
    single = [key for key, value in per_class.items() if value * many == 1]
    single += [key for key, value in of_algo.items() if value == 1]
    if not single:
        return UserError(f"model: batch norm has one value in a channel, and needs two ({_reason(error)})")
    bare = "model.norm=false" if getattr(x.model, "norm", False) else "a network without batch norm"
    words = ", ".join(f"{key}=1" for key in single)
    return UserError(f"{words}: batch norm has one value in a channel, and needs two; 2 would do, or {bare}")
