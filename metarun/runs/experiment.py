"""An experiment: all settings of a run in one object, and the parts that are built from them."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from pathlib import Path

from metarun.algorithms.base import Algorithm
from metarun.core.batch_norm import Norm
from metarun.datasets.base import Dataset, Tasks
from metarun.engine.device import Device
from metarun.errors import require, require_count
from metarun.files import default_data_root, user_path
from metarun.models.base import Model
from metarun.runs.recipe import Recipe
from metarun.trackers.base import Tracker


class Select(enum.Enum):
    """Which parameters are tested.

    Attributes:
        best: those that were best on validation.
        last: those after the last meta-iteration.
    """

    best = "best"
    last = "last"


class Resume(enum.Enum):
    """What to do with an unfinished run of the same configuration.

    Attributes:
        auto: resume it.
        never: start again in a new folder.
    """

    auto = "auto"
    never = "never"


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """Settings of validation and test.

    Attributes:
        tasks: meta-test tasks of the reported result.
        val_tasks: validation tasks.
        every: meta-iterations between validations; 0: no validation.
        shot: support examples per class of validation and test tasks.
        query: query examples per class of validation and test tasks.
        norm: batch norm statistics to evaluate with.
        every_step: whether to test after 0, 1, ..., S inner steps; if not, after S only.
        select: which parameters are tested.
        seed: seed of validation and test tasks, separate from the run's seed, so that all runs get the same tasks.
        way: N of validation and test tasks, where the method makes a head for each task; None: as in training.
        patience: validations without a better one after which meta-training stops; None: it does not stop early.
        ensemble: sets of parameters, the best on validation, whose outputs are averaged in a second test beside that of
            the best one; None: there is no second test.
    """

    tasks: int
    val_tasks: int
    every: int
    shot: int
    query: int
    norm: Norm
    every_step: bool
    select: Select
    seed: int
    way: int | None = None
    patience: int | None = None
    ensemble: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("patience", 1), ("ensemble", 2)):
            if (value := getattr(self, name)) is not None:
                require_count(name, value, least, most=10**3 if name == "ensemble" else 10**9)
                require(self.every > 0, name, value, "null where eval.every=0: there is no validation")
        best = self.ensemble is None or self.select is Select.best
        require(best, "ensemble", self.ensemble, "null with eval.select=last: validation chooses an ensemble")
        for name, least, most in (("tasks", 2, 10**7), ("val_tasks", 2, 10**7), ("every", 0, 10**9)):
            require_count(name, getattr(self, name), least, most)

    def exhausted(self, step: int, best: int) -> bool:
        """Whether ``patience`` validations were not better than the best one, so that meta-training stops.

        Args:
            step: meta-iterations done.
            best: meta-iterations done at the best validation so far; 0: none has a figure.
        """
        return self.patience is not None and step // self.every - best // self.every >= self.patience


@dataclass(kw_only=True, slots=True)
class Experiment:
    """The root of the configuration; ``conf/train.yaml`` states the values.

    Attributes:
        way: N, of all tasks; ``eval.way`` can be another one.
        shot: K, of meta-training tasks.
        query: Q, of meta-training tasks.
        meta_batch: tasks per meta-iteration.
        steps: meta-iterations.
        seed: seed of the first parameters and of the meta-training tasks.
        run_dir: the run folder; None: a new one in ``outputs``.
        data_root: folder of the data; None: the default one.
        checkpoint_every: meta-iterations between checkpoints.
        log_every: meta-iterations between lines of the journal.
        resume: what to do with an unfinished run of the same configuration.
        eval: settings of validation and test.
        dataset: the data set.
        model: the network.
        algo: the method.
        device: settings of the processor.
        recipe: the published protocol; None: the experiment follows none.
        tracker: option -> tracker that the run is shown in. A run's record has none of it.
        init: where the first parameters are taken from (source.py); None: they are random.
        extend: whether the finished run in ``run_dir`` goes on until ``steps`` (extend.py).
    """

    way: int
    shot: int
    query: int
    meta_batch: int
    steps: int
    seed: int
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
    recipe: Recipe | None = None
    tracker: dict[str, Tracker] = field(default_factory=dict)
    init: str | None = None
    extend: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "log_every"):
            require_count(name, getattr(self, name))
        for name in ("way", "shot", "query", "meta_batch"):
            require_count(name, getattr(self, name), most=10**6)
        for name in ("shot", "query"):
            require_count(f"eval.{name}", getattr(self.eval, name), most=10**6)
        require(self.way >= 2 or not self.dataset.has_way, "way", self.way, ">= 2")
        if self.eval.way is not None:
            require_count("eval.way", self.eval.way, least=2, most=10**6)
            same = self.eval_way == self.way or not self.dataset.binary
            require(same, "eval.way", self.eval.way, f"{self.way}, as in training, with this data set")
        require(self.way == 2 or not self.dataset.binary, "way", self.way, "2, the classes that one output tells apart")
        for key, value in {"seed": self.seed, "eval.seed": self.eval.seed}.items():
            require(0 <= value < 2**63, key, value, "0..2**63 - 1")
        known = self.run_dir is not None
        require(known or not self.extend, "extend", "true", "false without run_dir, which names the run to go on with")
        self.steps = self.algo.meta_iterations(self.steps)

    @property
    def data_folder(self) -> Path:
        """Folder of the data, ``data_root`` or the default one."""
        return user_path(self.data_root) if self.data_root else default_data_root()

    @property
    def eval_way(self) -> int:
        """N of validation and test tasks."""
        return self.way if self.eval.way is None else self.eval.way

    def grouped(self, sweep: str) -> None:
        """Let trackers show the run as one of this sweep, unless their settings state another group."""
        for tracker in self.tracker.values():
            tracker.group = tracker.group or sweep

    def unread(self) -> dict[str, str]:
        """Return the keys that nothing reads under the other settings -> what would read them."""
        of_method = {f"algo.{name}": reader for name, reader in self.algo.unread().items()}
        return of_method | (
            {} if self.dataset.has_way else dict.fromkeys(("way", "eval.way"), "a data set with classes")
        )

    def training_shots(self) -> tuple[int, int]:
        """Return (support, query) examples per class of a meta-training task."""
        return self.algo.training_shots(self.shot, self.query)

    def examples_of_a_task(self) -> int:
        """Return the count of network inputs of one meta-training task."""
        examples = sum(self.training_shots()) * (self.way if self.dataset.has_way else 1)
        return examples * self.dataset.inputs_of_an_example

    def inputs_of_a_task(self, tasks: Tasks) -> int:
        """Return the count of input numbers of one meta-training task: examples times the numbers of each."""
        return self.examples_of_a_task() * math.prod(tasks.input_shape)
