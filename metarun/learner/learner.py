"""A trained initialisation: it adapts to the support set of a task."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metarun.algorithms.base import MOST_INNER_STEPS
from metarun.core import rng
from metarun.core.batch_norm import Norm
from metarun.core.episode import Episode
from metarun.core.meta import Meta
from metarun.core.objective import Supervised, supervised
from metarun.core.tree import Params
from metarun.engine.over_tasks import OverTasks, concatenate
from metarun.errors import NotFinite, UserError, require, require_count
from metarun.files import user_path
from metarun.learner.adapted import Adapted
from metarun.learner.frozen import fill, freeze
from metarun.learner.inputs import Inputs, Labels, class_folder, digest, examples, labels, targets
from metarun.learner.rows import Learned
from metarun.models.base import functional
from metarun.runs.record import Record
from metarun.runs.setup import Setup


@dataclass(frozen=True, kw_only=True, repr=False)
class Learner:
    """The meta-parameters of a run, with its method, network and preprocessing. ``metarun.load`` makes it.

    Attributes:
        setup: the experiment's parts; its tasks are stand-ins with the shapes of the run's data.
        record: the run's configuration as plain data.
        meta: the meta-parameters.
        step: meta-iterations after which they were taken.
        run: the run folder.
    """

    setup: Setup
    record: Record
    meta: Meta
    step: int
    run: Path

    def __repr__(self) -> str:
        names, shape = self.record.names, list(self.input_shape)
        task = f"{self.way}-way, " if self.way else ""
        what = f"{names['algo']}, {names['model']}, {task}inputs {shape}"
        return f"Learner({self.run}: {what}, meta-iteration {self.step})"

    @property
    def way(self) -> int | None:
        """Classes of a task (N); None where a task may have any number of them, or is no classification."""
        x, problem = self.setup.experiment, supervised(self.setup.problem, "metarun.load")
        return None if not x.dataset.has_way or x.algo.any_way(problem) else x.way

    @property
    def learned(self) -> Learned | None:
        """What the run learned of a user's rows; None: its data are no rows."""
        return Learned.of(self.record)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, such as (C, H, W)."""
        return self.setup.tasks.input_shape

    def adapt(self, x: Inputs, y: Any = None, steps: int | None = None) -> Adapted:
        """Adapt to a support set, or to those of a batch of tasks, each by itself.

        The same support set gives the same result. Its classes may have different numbers of examples.

        Args:
            x: the support examples: an array or tensor [B, *input_shape], or [T, B, *input_shape] for T tasks; image
                files, as a list of paths; or one folder that has a folder of images for each class. Rows of a user's
                own data are as in their file; the run's means and deviations are applied here.
            y: their labels, [B] or [T, B]: texts or whole numbers. For regression their targets, [B], [B, 1],
                [T, B] or [T, B, 1]. For a folder None: the labels are the names of its folders.
            steps: inner steps S; None: as in the run's evaluation.

        Returns:
            The adapted task or tasks.

        Raises:
            UserError: the support set does not fit the run; or the network cannot use its statistics.
            NotFinite: the outputs after the inner steps are not finite.
        """
        x, y = self._files(x, y)
        inputs = examples(x, self.setup.experiment.dataset, self.learned)
        batched = inputs.ndim == 2 + len(self.input_shape)
        if inputs.ndim - len(self.input_shape) not in (1, 2):
            raise UserError(
                f"x: has shape {tuple(inputs.shape)}; a support set is [B, ...], a batch of tasks [T, B, ...]"
            )
        steps = self.setup.experiment.algo.eval_inner_steps if steps is None else steps
        require(isinstance(steps, int), "steps", steps, "a whole number")
        require_count("steps", steps, 0, MOST_INNER_STEPS)
        Norm.support.members(self.setup.mixing)  # refuses a network that cannot use the support set's statistics
        problem, task, classes = self._tasks(inputs, y, batched)
        given = x if isinstance(x, list | tuple) else [x]
        module = self.setup.module
        values = self._adapted(problem, task, steps)
        networks = []
        for t in range(len(task.key)):
            of_task, support_x = {name: value[t] for name, value in values.items()}, task.support_x[t]
            if not functional(module)(of_task, support_x).isfinite().all():
                which = f"task {t}: " if batched else ""
                raise NotFinite(f"{which}the outputs are not finite after {steps} inner steps on this support set")
            networks.append(freeze(module, of_task, support_x))
        return Adapted(
            setup=self.setup,
            record=self.record,
            classes=classes,
            steps=steps,
            support=task,
            networks=networks,
            batched=batched,
            run=str(self.run),
            digests=[digest(user_path(path)) for path in given if isinstance(path, str | Path)],
        )

    def _files(self, x: Inputs, y: Any) -> tuple[Inputs, Any]:
        """The image files of a folder, and their labels; other examples as they are."""
        if isinstance(x, str | Path) and y is None:
            found = class_folder(user_path(x))
            return [p for paths in found.values() for p in paths], [n for n, paths in found.items() for _ in paths]
        if y is None:
            raise UserError("y: is missing; only the images of a folder have the names of its folders as labels")
        return x, y

    def _tasks(self, inputs: Tensor, y: Any, batched: bool) -> tuple[Supervised, Episode, list[Any] | None]:
        """The problem of these tasks, the tasks without queries, and their classes."""
        lead, setup = inputs.shape[: 1 + batched], self.setup
        x, device = setup.experiment, setup.device
        if x.dataset.has_way:
            known = labels(y, lead, self.learned.classes if self.learned else ())
            way = self._fitting(known)
            of = known.numbers if batched else known.numbers[None]
            order = of.argsort(dim=1, stable=True)  # examples of one class stand next to each other
            inputs = inputs if batched else inputs[None]
            inputs, of = (torch.stack([row[o] for row, o in zip(rows, order, strict=True)]) for rows in (inputs, of))
            classes: list[Any] | None = known.classes
        else:
            way, classes = x.way, None
            of = targets(y, lead, setup.tasks.outputs(way), self.learned)
            inputs, of = (inputs, of) if batched else (inputs[None], of[None])
        keys = rng.root(0, device).expand(len(inputs))  # one for all: a task is the same alone and in a batch
        inputs, of = inputs.to(device), of.to(device)
        task = Episode(inputs, of, inputs[:, :0], of[:, :0], keys)
        problem = setup.tasks.problem(functional(setup.module), way)
        return supervised(problem, "adapt"), task, classes

    def _fitting(self, known: Labels) -> int:
        """The number of classes; raises ``UserError`` where the head or the method cannot have them."""
        algo, way = self.record.names["algo"], len(known.classes)
        named = ", ".join(str(name) for name in known.classes[:3]) + (", ..." if way > 3 else "")
        if self.way is not None and way != self.way:
            raise UserError(
                f"support: has {way} classes ({named}): must be {self.way}, the way that this run's head has; a run "
                "whose method makes a head for each task (algo=protonet, protomaml, pretrain) takes any number"
            )
        if way < 2:
            raise UserError(f"support: has {way} class ({named}): must be at least 2")
        rows = known.numbers.reshape(-1, known.numbers.shape[-1])
        counts = torch.stack([(rows == label).sum(1) for label in range(way)], 1)  # [T, N]
        if (counts == 0).any():
            missing = known.classes[int((counts == 0).any(0).nonzero()[0])]
            raise UserError(f"y: class {missing} has no example; every task must have examples of every class")
        if self.setup.experiment.algo.equal_shots and (counts != counts[0, 0]).any():
            least, most = int(counts.min()), int(counts.max())
            raise UserError(f"support: has {least} to {most} examples a class; algo={algo} needs equally many of each")
        return way

    def _adapted(self, problem: Supervised, task: Episode, steps: int) -> Params:
        """Every task's values after the inner steps, by name, [T, ...]."""
        algo = self.setup.experiment.algo

        def last(meta: Meta, task: Episode) -> Params:
            *_, params = algo.adapt(problem, meta, task, steps)
            return params

        return concatenate(list(OverTasks(self.setup.engine, last)(self.meta, task)))

    def module(self) -> nn.Module:
        """Return the network with the meta-parameters, before adapting; a copy.

        Its batch norm uses the statistics of each batch that it gets, in ``eval()`` too, as in training. For single
        examples adapt first: ``adapt(...).module()``. It takes a user's rows as they are in their file.
        """
        module = copy.deepcopy(self.setup.module)
        fill(module, self.meta.model)
        return self.learned.around(module) if self.learned else module

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network's meta-parameters by name. Learned step sizes are in ``meta``."""
        return {name: value.detach().clone() for name, value in self.meta.model.items()}
