"""The parts of an experiment, live: data, network, losses and engine on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from metarun.core.batch_norm import Mixing
from metarun.core.meta import OWN, Meta
from metarun.core.metric import ACCURACY
from metarun.core.objective import Supervised
from metarun.core.problem import Problem
from metarun.core.tree import Params
from metarun.datasets.base import Split, Tasks
from metarun.engine import meta_batch
from metarun.engine.collect import collected
from metarun.engine.meta_batch import Questions
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine
from metarun.engine.ranks import ALONE, Ranks
from metarun.errors import TooFewExamples, UserError, require
from metarun.models.base import count_parameters, functional, initialise
from metarun.out_of_memory import require_room
from metarun.runs import held_out
from metarun.runs.experiment import Experiment


@dataclass(kw_only=True)
class Setup:
    """The parts of an experiment: data, network, losses and engine on a device.

    Attributes:
        experiment: the settings.
        device: where the run computes.
        tasks: the data, in the form in which the method gets them.
        module: the network.
        problem: the network with the losses and the metric of its tasks.
        tested: the same for validation and test tasks, whose way may be another.
        engine: how tasks are run.
        mixing: how the network mixes the examples of a batch.
        ranks: the processes of the run.
        given: meta-parameters that the run begins with in place of its first ones, by their flat names (``init``).
    """

    experiment: Experiment
    device: torch.device
    tasks: Tasks
    module: nn.Module
    problem: Problem
    tested: Problem
    engine: Engine
    mixing: Mixing
    ranks: Ranks
    given: Params = field(default_factory=dict)

    def first_meta(self) -> Meta:
        """Return the meta-parameters before training, float32 on the device.

        Parameters that the network has frozen (``requires_grad_(False)``) are constants and not part of them.

        Raises:
            UserError: nothing is left to train, or a parameter's name collides with names in checkpoints.
        """
        params = {name: p.detach().clone() for name, p in self.module.named_parameters() if p.requires_grad}
        if not params:
            raise UserError("model: every parameter has requires_grad=False, and nothing is left to train")
        if taken := [name for name in params if name.startswith(OWN)]:
            raise UserError(f"model: {taken[0]}: in checkpoints {OWN}* are the method's own; rename the layer")
        given = {name: value.clone() for name, value in self.given.items()}
        first = self.experiment.algo.init(params | {n: v for n, v in given.items() if n in params}).flat()
        return Meta.from_flat({**first, **given})

    def require_room(self) -> None:
        """Check that this rank's tasks of a meta-batch fit into memory, before minutes are spent on drawing them.

        The examples count twice: as drawn, and divided into support and query sets.

        Raises:
            UserError: they do not fit.
        """
        x = self.experiment
        numbers = 2 * math.ceil(x.meta_batch / self.ranks.world) * x.inputs_of_a_task(self.tasks)
        keys = "meta_batch, way, shot, query or dataset.size"
        require_room(4 * numbers, self.device, f"meta_batch={x.meta_batch}: the tasks", keys)

    def meta_gradient(self) -> MetaGradient:
        """Return the function (meta-parameters, tasks) -> meta-gradient of a training step."""
        x = self.experiment
        return MetaGradient(self.engine, x.algo, self.problem, calls=x.steps)

    def collected(self, meta: Meta, tasks: Any) -> Any:
        """Return meta-training tasks with the data that come from acting; other tasks as they are."""
        algo = self.experiment.algo
        return collected(self.engine, algo, self.problem, meta, tasks, algo.inner_steps, training=True)

    def questions(self) -> Questions:
        """Return what answers the questions of the outer steps."""
        x = self.experiment
        return Questions(self.engine, x.algo, self.problem, self.ranks, tasks=x.meta_batch, steps=x.steps)

    def protocol(self) -> dict[str, object]:
        """Return the facts that a few-shot result depends on. Norm and number of tasks are stored with each result."""
        x = self.experiment
        train_shot, train_query = x.training_shots()
        return {
            "task": x.dataset.kind(x.eval_way, x.eval.shot),
            **({"train_way": x.way} if x.eval_way != x.way else {}),
            **self.tasks.stamp,
            "train_shot": train_shot,
            "train_query": train_query,
            "test_query": x.eval.query,
            "train_steps": x.algo.inner_steps,
            "test_steps": x.algo.eval_inner_steps,
            "test_tasks": x.eval.tasks,
            "eval_seed": x.eval.seed,
            **held_out.stamp(self.tasks),
            **x.algo.stamp(),
        }


def build(
    experiment: Experiment, testing: bool = False, ranks: Ranks = ALONE, learned: Mapping[str, Any] | None = None
) -> Setup:
    """Load the data, build the network, and check that each split in use has enough classes and examples.

    Args:
        experiment: the settings.
        testing: whether the parameters are trained already. Then meta-training tasks are not checked.
        ranks: the processes of the run.
        learned: ``Tasks.learned`` of the run that is tested; None: there is none, or it learned nothing from its data.

    Raises:
        UserError: settings, data, network or memory do not fit together. It comes before any training.
    """
    device = experiment.device.torch_device(ranks.local)
    setup = assemble(experiment, load(experiment, device, learned), device, testing, ranks)
    of, problem = experiment.dataset, setup.problem
    if problem.metric != of.metric or (of.labelled and not isinstance(problem, Supervised)):
        raise TypeError(f"{type(of).__name__}: metric and labelled must be those of its problem (datasets/base.py)")
    if isinstance(problem, Supervised) and problem.fixed_labels != of.fixed_labels:
        raise TypeError(f"{type(of).__name__}: fixed_labels must be that of its problem (datasets/base.py)")
    return setup


def load(experiment: Experiment, device: torch.device, learned: Mapping[str, Any] | None = None) -> Tasks:
    """Find or make the experiment's data; ``learned`` as for ``build``."""
    data, root = experiment.dataset, experiment.data_folder
    return data.load_as_trained(learned, root, device) if learned else data.load(root, device)


def assemble(
    experiment: Experiment, tasks: Tasks, device: torch.device, testing: bool = False, ranks: Ranks = ALONE
) -> Setup:
    """Do what ``build`` does, with tasks that are loaded already on ``device``."""
    tasks = tasks.seen(experiment.algo.view)
    if not testing:
        _check(experiment, tasks, Split.train)
    _check(experiment, tasks, Split.test)
    outputs = tasks.outputs(experiment.way)
    numbers = count_parameters(experiment.model, tasks.input_shape, outputs)
    copies = 3 + experiment.algo.moments()  # of the network, of the method, gradient, moments
    require_room(4 * copies * numbers, device, f"model: {copies} copies of {numbers:,} parameters", "model")
    module = initialise(experiment.model, tasks.input_shape, outputs, experiment.seed).to(device)
    support, query, others = _examples(experiment, tasks, Split.test if testing else Split.train)
    problem = tasks.problem(functional(module), experiment.way)
    tested = problem
    if experiment.eval_way != experiment.way:
        made = experiment.algo.any_way(problem)
        allowed = f"{experiment.way}, as in training: this method has one head for all tasks (algo.head)"
        require(made, "eval.way", experiment.eval_way, allowed)
        tested = tasks.problem(functional(module), experiment.eval_way)
    setup = Setup(
        experiment=experiment,
        device=device,
        tasks=tasks,
        module=module,
        problem=problem,
        tested=tested,
        engine=Engine.choose(
            experiment.device.vectorize,
            experiment.device.tasks_at_once(),
            experiment.device.compiling(),
            device,
            module,
            examples=experiment.examples_of_a_task(),
            width=math.prod(tasks.input_shape),
            run=lambda: module(support),
        ),
        mixing=Mixing.of(module, support, query, others),
        ranks=ranks,
    )
    experiment.algo.check_problem(setup.problem, dict(module.named_parameters()))
    meta_batch.check(experiment.algo, setup.problem)
    experiment.model.check_problem(setup.problem)
    tunes = len(experiment.algo.candidates(setup.first_meta())) > 1  # on validation; a method may also refuse a network
    of_validation = {"eval.patience": experiment.eval.patience, "eval.ensemble": experiment.eval.ensemble}
    for key, value in of_validation.items():
        allowed = "null: there are no validation tasks with these settings"
        require(testing or value is None or tasks.has(Split.val), key, value, allowed)
    classes = isinstance(tested, Supervised) and tested.metric == ACCURACY
    allowed = "null with this data set: outputs are averaged where they choose a class"
    require(experiment.eval.ensemble is None or classes, "eval.ensemble", experiment.eval.ensemble, allowed)
    if tasks.has(Split.val) and (tunes or (experiment.eval.every > 0 and not testing)):
        _check(experiment, tasks, Split.val)
    experiment.eval.norm.members(setup.mixing)
    return setup


def _check(experiment: Experiment, tasks: Tasks, split: Split) -> None:
    """Raise ``UserError``, with the keys to change, where a split has too few classes or examples for its tasks."""
    of_training, most = split is Split.train, tasks.most(split)
    if split is Split.test and most is not None:
        asked = experiment.eval.tasks
        require(asked <= most, "eval.tasks", asked, f"<= {most}: there are no other test tasks with these settings")
    shots = experiment.training_shots() if of_training else (experiment.eval.shot, experiment.eval.query)
    try:
        tasks.check(split, experiment.way if of_training else experiment.eval_way, *shots)
    except TooFewExamples as error:
        keys = experiment.algo.training_shot_keys if of_training else "eval.shot or eval.query"
        raise TooFewExamples(error.said, error.rest, keys) from None


def _examples(experiment: Experiment, tasks: Tasks, split: Split) -> tuple[Tensor, ...]:
    """Draw (support, query, others) inputs on which the network's behaviour is examined.

    Support and query are as large as in an evaluation, at least two examples each; others as large as both.
    """
    way = experiment.way if split is Split.train else experiment.eval_way
    classes = way if experiment.dataset.has_way else 1
    support, query = (max(2, classes * per_class) for per_class in (experiment.eval.shot, experiment.eval.query))
    shots = experiment.training_shots() if split is Split.train else (experiment.eval.shot, experiment.eval.query)
    count = math.ceil(2 * (support + query) / (classes * sum(shots)))
    drawn = tasks.sample(split, experiment.seed, range(count), way, *shots)
    x = tasks.inputs(drawn).flatten(0, 1)[: 2 * (support + query)]
    return x.split([support, query, support + query])
