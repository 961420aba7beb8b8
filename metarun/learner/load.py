"""Load the learner of a run folder, without the data that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from metarun.algorithms.base import Algorithm
from metarun.config.earlier import opened
from metarun.core import tree
from metarun.core.episode import View
from metarun.core.meta import Meta
from metarun.core.objective import Supervised, classification, regression
from metarun.core.tree import Params
from metarun.datasets.base import Dataset
from metarun.datasets.generated import Generated
from metarun.errors import UserError
from metarun.learner.learner import Learner
from metarun.learner.rows import Learned
from metarun.results import result_file
from metarun.runs import checkpoint, zoo
from metarun.runs.experiment import Experiment
from metarun.runs.folder import RESULT
from metarun.runs.load import trained
from metarun.runs.record import Record
from metarun.runs.setup import Setup, assemble


class Shapes(Generated):
    """Noise with the shapes of a run's data, in place of them.

    Args:
        dataset: the run's data set.
        device: device of the tasks.
        head: width of the network's last layer; None: as the data set says.
        learned: what the run learned of a user's rows; None: its data are no rows.
    """

    def __init__(self, dataset: Dataset, device: torch.device, head: int | None, learned: Learned | None):
        super().__init__(dataset, device, learned.shape if learned else None)
        self.head, self.targets, self.metric = head, len(learned.targets) if learned else 0, dataset.metric

    def outputs(self, way: int) -> int:
        return self.head or self.targets or super().outputs(way)

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Supervised:
        if self.targets:
            return regression(forward, self.targets, self.metric)
        return super().problem(forward, way) if self.head is None else classification(forward, way, self.fixed_labels)


def load(run: str | Path, *, checkpoint: str | None = None, device: str = "auto") -> Learner:
    """Load a trained initialisation from a run folder. The data of its training need not exist any more.

    Args:
        run: the run folder, or ``zoo:NAME`` for an entry of the zoo.
        checkpoint: "best" or "last"; None: the one that the run was tested on.
        device: "cpu", "cuda" or "auto", a GPU where there is one.

    Raises:
        UserError: it is no run folder, has no checkpoint, or was trained on tasks without labelled examples.
    """
    return learner(zoo.run_folder(run), checkpoint, uncompiled([f"device={device}"]))


def uncompiled(words: list[str]) -> list[str]:
    """Return overrides with ``device.compile=false``, unless they state it: no compiler is needed to use a run."""
    stated = any(word.startswith("device.compile=") for word in words)
    return words if stated else [*words, "device.compile=false"]


def learner(run_dir: Path, which: str | None, overrides: list[str]) -> Learner:
    """Do what ``load`` does, with settings changed as ``metarun eval`` can change them.

    Args:
        run_dir: the run folder.
        which: best or last; None: the run's own choice.
        overrides: of keys that a test reads.
    """
    experiment, record = opened(run_dir, which, overrides)
    before = Record.read(run_dir)
    record = replace(record, data=before.data if before else None)
    require_labelled(experiment, record, f"run={run_dir}")
    setup = without_data(experiment, record, _head(run_dir, experiment))
    content = trained(run_dir, experiment.eval.select, setup)
    meta = content["meta"] if "value" in content else _tuned(run_dir, experiment.algo, content["meta"])
    meta = tree.combine(lambda p: p.to(setup.device), meta)
    return Learner(setup=setup, record=record, meta=meta, step=content["step"], run=run_dir)


def require_labelled(experiment: Experiment, record: Record, place: str) -> None:
    """Raise ``UserError`` where a run's tasks are none that a learner can be given."""
    names = record.names
    if not experiment.dataset.labelled and Learned.of(record) is None:
        raise UserError(f"{place}: dataset={names['dataset']} has tasks to act in, and no examples that could be given")
    if experiment.algo.view is View.revealed:
        raise UserError(f"{place}: algo={names['algo']} is told what makes a task, and own data do not say that")


def without_data(experiment: Experiment, record: Record, head: int | None) -> Setup:
    """Build the parts of an experiment with noise in place of its data.

    Args:
        experiment: the settings.
        record: the same as plain data, with the facts of the run's data.
        head: width of the network's last layer, where the number of training classes decides it; None: elsewhere.
    """
    device = experiment.device.torch_device()
    tasks = Shapes(experiment.dataset, device, head, Learned.of(record))
    return assemble(experiment, tasks, device, testing=True)


def _head(run_dir: Path, experiment: Experiment) -> int | None:
    """The width of the last layer, where the number of training classes decided it."""
    if experiment.algo.view is not View.pooled or not experiment.dataset.has_way or experiment.dataset.binary:
        return None
    for name in (checkpoint.TESTED, checkpoint.LAST, checkpoint.BEST):
        try:
            return len(checkpoint.read(checkpoint.folder(run_dir) / name)["meta"]["head.weight"])
        except (checkpoint.Damaged, KeyError, TypeError):
            continue
    raise UserError(f"run={run_dir}: has no checkpoint, or a damaged one")


def _tuned(run_dir: Path, algo: Algorithm, meta: Meta) -> Meta:
    """Choose the candidate that was tested, for methods that tune a setting when a run is tested."""
    candidates = algo.candidates(meta)
    path = run_dir / RESULT
    if not algo.tunes() or (len(candidates) == 1 and not path.exists()):
        return candidates[0]
    if not path.exists():
        raise UserError(
            f"run={run_dir}: has no {RESULT}, and its method tunes a step size when it is tested; resume it"
        )
    said = result_file.read(path).protocol.get("step_size")
    for candidate in (*candidates, meta):
        if said in {f"{rate.item():g}" for rate in candidate.step_sizes.values()}:
            return candidate
    raise UserError(f"{path}: does not say which step size was tested")
