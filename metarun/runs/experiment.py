"""An experiment: all settings of a run in one object, and the parts that are built from them."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarun.algorithms.base import Algorithm
from metarun.core.batch_norm import Mixing, Norm
from metarun.core.meta import OWN, Meta
from metarun.core.problem import Problem
from metarun.datasets.base import Dataset, Split, Tasks, default_data_root
from metarun.engine.device import Device
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine
from metarun.engine.ranks import ALONE, Ranks
from metarun.errors import TooFewExamples, UserError, require, require_count
from metarun.files import user_path
from metarun.models.base import Model, count_parameters, functional, initialise
from metarun.out_of_memory import require_room
from metarun.runs import held_out
from metarun.runs.recipe import Recipe


class Select(enum.Enum):
    """Which parameters are tested: those that were best on validation, or the last ones."""

    best = "best"
    last = "last"


class Resume(enum.Enum):
    """auto: continue an unfinished run of the same configuration. never: start again in a new folder."""

    auto = "auto"
    never = "never"


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """Settings of validation and test."""

    tasks: int  # meta-test tasks of the reported result
    val_tasks: int
    every: int  # meta-iterations between validations; 0: no validation
    shot: int  # support examples per class of validation and test tasks
    query: int  # query examples per class of validation and test tasks
    norm: Norm
    every_step: bool  # test after 0, 1, ..., S inner steps; false: after S only
    select: Select
    seed: int  # of validation and test tasks; separate from the run's seed, so that all runs get the same tasks

    def __post_init__(self) -> None:
        for name, least, most in (("tasks", 2, 10**7), ("val_tasks", 2, 10**7), ("every", 0, 10**9)):
            require_count(name, getattr(self, name), least, most)


@dataclass(kw_only=True, slots=True)
class Experiment:
    """The root of the configuration; ``conf/train.yaml`` states the values."""

    way: int
    shot: int
    query: int  # query examples per class of meta-training tasks
    meta_batch: int  # tasks per meta-iteration
    steps: int  # meta-iterations
    seed: int  # of the first parameters and of the meta-training tasks
    run_dir: str | None
    data_root: str | None
    checkpoint_every: int
    log_every: int
    resume: Resume
    eval: Evaluation
    dataset: Dataset
    model: Model
    algo: Algorithm
    device: Device
    recipe: Recipe | None = None  # the published protocol, where this is one

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "log_every"):
            require_count(name, getattr(self, name))
        for name in ("way", "shot", "query", "meta_batch"):
            require_count(name, getattr(self, name), most=10**6)
        for name in ("shot", "query"):
            require_count(f"eval.{name}", getattr(self.eval, name), most=10**6)
        require(self.way >= 2 or not self.dataset.has_way, "way", self.way, ">= 2")
        require(self.way == 2 or not self.dataset.binary, "way", self.way, "2, the classes that one output tells apart")
        for key, value in {"seed": self.seed, "eval.seed": self.eval.seed}.items():
            require(0 <= value < 2**63, key, value, "0..2**63 - 1")
        self.steps = self.algo.meta_iterations(self.steps)

    def unread(self) -> dict[str, str]:
        """Return the keys that nothing reads under the other settings -> what would read them."""
        of_method = {f"algo.{name}": reader for name, reader in self.algo.unread().items()}
        return of_method | ({} if self.dataset.has_way else {"way": "a data set with classes"})

    def training_shots(self) -> tuple[int, int]:
        """Return (support, query) examples per class of a meta-training task."""
        return self.algo.training_shots(self.shot, self.query)

    def inputs_of_a_task(self, tasks: Tasks) -> int:
        """Return the count of input numbers of one meta-training task: examples times C * H * W."""
        examples = sum(self.training_shots()) * (self.way if self.dataset.has_way else 1)
        return examples * math.prod(tasks.input_shape)

    def build(self, testing: bool = False, ranks: Ranks = ALONE) -> Bench:
        """Load the data, build the network, and check that each split in use has enough classes and examples.

        Args:
            testing: Whether the parameters are trained already. Then meta-training tasks are not checked.
            ranks: The processes of the run.

        Raises:
            UserError: Settings, data, network or memory do not fit together. It comes before any training.
        """
        device = self.device.torch_device(ranks.local)
        tasks = self.dataset.load(user_path(self.data_root) if self.data_root else default_data_root(), device)
        return self.assemble(tasks, device, testing, ranks)

    def assemble(self, tasks: Tasks, device: torch.device, testing: bool = False, ranks: Ranks = ALONE) -> Bench:
        """Do what ``build`` does, with tasks that are loaded already on ``device``."""
        tasks = tasks.seen(self.algo.view)
        if not testing:
            self._check(tasks, Split.train)
        self._check(tasks, Split.test)
        outputs = tasks.outputs(self.way)
        numbers = count_parameters(self.model, tasks.input_shape, outputs)
        copies = 3 + self.algo.moments()  # of the network, of the method, gradient, moments
        require_room(4 * copies * numbers, device, f"model: {copies} copies of {numbers:,} parameters", "model")
        module = initialise(self.model, tasks.input_shape, outputs, self.seed).to(device)
        support, query, others = self._examples(tasks, Split.test if testing else Split.train)
        bench = Bench(
            experiment=self,
            device=device,
            tasks=tasks,
            module=module,
            problem=tasks.problem(functional(module), self.way),
            engine=Engine.choose(
                self.device.vectorize,
                self.device.tasks_at_once(),
                self.device.compiling(),
                device,
                module,
                numbers=self.inputs_of_a_task(tasks),
                run=lambda: module(support),
            ),
            mixing=Mixing.of(module, support, query, others),
            ranks=ranks,
        )
        tunes = len(self.algo.candidates(bench.first_meta())) > 1  # on validation; a method may also refuse a network
        if tasks.has(Split.val) and (tunes or (self.eval.every > 0 and not testing)):
            self._check(tasks, Split.val)
        self.eval.norm.members(bench.mixing)
        return bench

    def _check(self, tasks: Tasks, split: Split) -> None:
        """Raise ``UserError``, with the keys to change, where a split has too few classes or examples for its tasks."""
        of_training = split is Split.train
        shots = self.training_shots() if of_training else (self.eval.shot, self.eval.query)
        try:
            tasks.check(split, self.way, *shots)
        except TooFewExamples as error:
            keys = self.algo.training_shot_keys if of_training else "eval.shot or eval.query"
            raise TooFewExamples(error.said, error.rest, keys) from None

    def _examples(self, tasks: Tasks, split: Split) -> tuple[Tensor, ...]:
        """Draw (support, query, others) inputs on which the network's behaviour is examined.

        Support and query are as large as in an evaluation, at least two examples each; others as large as both.
        """
        classes = self.way if self.dataset.has_way else 1
        support, query = (max(2, classes * per_class) for per_class in (self.eval.shot, self.eval.query))
        shots = self.training_shots() if split is Split.train else (self.eval.shot, self.eval.query)
        count = math.ceil(2 * (support + query) / (classes * sum(shots)))
        drawn = tasks.sample(split, self.seed, range(count), self.way, *shots)
        x = torch.cat([drawn.support_x, drawn.query_x], 1).flatten(0, 1)[: 2 * (support + query)]
        return x.split([support, query, support + query])


@dataclass(kw_only=True)
class Bench:
    """The parts of an experiment: data, network, losses and engine on a device."""

    experiment: Experiment
    device: torch.device
    tasks: Tasks
    module: nn.Module
    problem: Problem
    engine: Engine
    mixing: Mixing
    ranks: Ranks

    def first_meta(self) -> Meta:
        """Return the meta-parameters before training, float32 on the device.

        Parameters that the network has frozen (``requires_grad_(False)``) are constants and not part of them.

        Raises:
            UserError: Nothing is left to train, or a parameter's name collides with names in checkpoints.
        """
        params = {name: p.detach().clone() for name, p in self.module.named_parameters() if p.requires_grad}
        if not params:
            raise UserError("model: every parameter has requires_grad=False, and nothing is left to train")
        if taken := [name for name in params if name.startswith(OWN)]:
            raise UserError(f"model: {taken[0]}: in checkpoints {OWN}* are the method's own; rename the layer")
        return self.experiment.algo.init(params)

    def require_room(self) -> None:
        """Check that this rank's tasks of a meta-batch fit into memory, before minutes are spent on drawing them.

        The examples count twice: as drawn, and divided into support and query sets.

        Raises:
            UserError: They do not fit.
        """
        x = self.experiment
        numbers = 2 * math.ceil(x.meta_batch / self.ranks.world) * x.inputs_of_a_task(self.tasks)
        keys = "meta_batch, way, shot, query or dataset.size"
        require_room(4 * numbers, self.device, f"meta_batch={x.meta_batch}: the tasks", keys)

    def meta_gradient(self) -> MetaGradient:
        """Return the function (meta-parameters, tasks) -> meta-gradient of a training step."""
        x = self.experiment
        return MetaGradient(self.engine, x.algo, self.problem, calls=x.steps)

    def protocol(self) -> dict[str, object]:
        """Return the facts that a few-shot result depends on. Norm and number of tasks are stored with each result."""
        x = self.experiment
        kind = f"{x.way}-way {x.eval.shot}-shot" if x.dataset.has_way else f"{x.eval.shot}-shot"
        train_shot, train_query = x.training_shots()
        return {
            "task": kind,
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
