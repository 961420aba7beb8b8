"""A task that a learner has adapted to: it predicts, and it can be kept in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from metarun.core.batch_norm import Norm, predict
from metarun.core.episode import Episode
from metarun.errors import NotFinite, UserError
from metarun.files import user_path, write_atomic
from metarun.learner.frozen import held
from metarun.learner.inputs import Inputs, Label, examples
from metarun.learner.rows import Learned
from metarun.models.base import functional
from metarun.results.result_file import sealed
from metarun.runs import checkpoint
from metarun.runs.record import Record
from metarun.runs.setup import Setup

AT_ONCE = 64  # examples in one forward pass
KIND = "adapted"  # what a file says that it is


@dataclass(frozen=True, kw_only=True, repr=False)
class Adapted:
    """One task, or a batch of T tasks, after the inner steps. ``Learner.adapt`` makes it.

    Batch norm uses the statistics of the support set, unless ``norm`` says otherwise: then a prediction does not
    depend on which other examples are predicted with it.

    Attributes:
        setup: the experiment's parts.
        record: the run's configuration as plain data.
        classes: the labels, in the order of the outputs; None for regression.
        steps: inner steps that were taken.
        support: the support sets, [T, B, ...], in the order of their labels.
        networks: the frozen network of each task (frozen.py).
        batched: whether it is a batch of tasks, so that inputs and outputs have the axis T.
        run: the run folder of the initialisation.
        digests: SHA-256 of the support set's image files; empty where it was none.
    """

    setup: Setup
    record: Record
    classes: list[Label] | None
    steps: int
    support: Episode
    networks: list[nn.Module]
    batched: bool
    run: str
    digests: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        tasks = f"{len(self.networks)} tasks of " if self.batched else ""
        what = "numbers" if self.classes is None else f"{len(self.classes)} classes"
        examples = f"{self.support.support_y.shape[1]} support examples"
        return f"Adapted({self.run}: {tasks}{what}, {examples}, {self.steps} inner steps)"

    @property
    def learned(self) -> Learned | None:
        """What the run learned of a user's rows; None: its data are no rows."""
        return Learned.of(self.record)

    def __call__(self, x: Inputs, norm: str | Norm = Norm.support) -> Tensor:
        """Compute the outputs of the network.

        Args:
            x: examples [B, *input_shape], or [T, B, *input_shape] for a batch of tasks, as an array or tensor; or
                image files. Rows of the user's own data are as in their file.
            norm: whose statistics batch norm uses: "support"; "support_plus_one", the support set and the one example;
                "transductive", all examples of this call, which suits only a mix of classes as balanced as a test's.

        Returns:
            Logits, or numbers of a regression, in the units of the user's own rows: [B, outputs] or [T, B, outputs].

        Raises:
            UserError: the examples do not fit the run.
            NotFinite: outputs are not finite.
        """
        learned = self.learned
        inputs, lead = examples(x, self.setup.experiment.dataset, learned), len(self.setup.tasks.input_shape) + 1
        if inputs.ndim != lead + self.batched or (self.batched and len(inputs) != len(self.networks)):
            form = f"[{len(self.networks)}, B, ...]" if self.batched else "[B, ...]"
            raise UserError(f"x: has shape {tuple(inputs.shape)}, and must have {form}")
        how = self._norm(norm)
        inputs = inputs.to(self.setup.device)
        rows = inputs if self.batched else inputs[None]
        outputs = torch.stack([self._of_task(t, row, how) for t, row in enumerate(rows)])
        if not outputs.isfinite().all():
            raise NotFinite("x: outputs are not finite")
        outputs = learned.outside(outputs) if learned else outputs
        return outputs if self.batched else outputs[0]

    def _norm(self, norm: str | Norm) -> Norm:
        how = Norm.one(norm.name if isinstance(norm, Norm) else str(norm), "norm")
        return how if how is Norm.support else how.members(self.setup.mixing)[0]

    def _of_task(self, t: int, x: Tensor, norm: Norm) -> Tensor:
        with torch.no_grad():
            if norm is Norm.support:
                return torch.cat([self.networks[t](part) for part in x.split(AT_ONCE)])
            module = self.setup.module
            values = held(self.networks[t])
            own = {name: value for name, value in values.items() if name in held(module)}
            return predict(functional(module), own, self.support.support_x[t], x, norm)

    def predict(self, x: Inputs, norm: str | Norm = Norm.support) -> np.ndarray:
        """Predict the label of each example, or its numbers.

        Args:
            x: as for a call.
            norm: as for a call.

        Returns:
            Labels [B] or [T, B], those that ``adapt`` was given; for regression numbers [B, outputs] or
            [T, B, outputs].
        """
        if self.classes is None:
            return self(x, norm).cpu().numpy()
        return np.asarray(self.classes)[self.predict_proba(x, norm).argmax(-1)]

    def predict_proba(self, x: Inputs, norm: str | Norm = Norm.support) -> np.ndarray:
        """Compute the probability of each class.

        Args:
            x: as for a call.
            norm: as for a call.

        Returns:
            [B, N] or [T, B, N], in the order of ``classes``; each row sums to 1.

        Raises:
            UserError: this is a regression, which has no classes.
        """
        if self.classes is None:
            raise UserError("predict_proba: this run predicts numbers, not classes")
        return probabilities(self(x, norm)).cpu().numpy()

    def module(self) -> nn.Module:
        """Return the frozen network, an ordinary one in ``eval()`` without gradients.

        It takes float examples [B, *input_shape] (images 0..1, or rows as they are in a user's file) and returns logits
        [B, N], or numbers [B, outputs] in their own units. An output depends on its own example alone, so single
        examples and batches of any size get the same.

        Raises:
            UserError: this is a batch of tasks.
        """
        if self.batched:
            raise UserError("module: this is a batch of tasks; adapt to one task for its network")
        return self.learned.around(self.networks[0]) if self.learned else self.networks[0]

    def save(self, path: str | Path) -> Path:
        """Write all that predicting needs to one file, which loads without running code (``metarun.load_adapted``).

        Args:
            path: the file.

        Returns:
            The same path.

        Raises:
            UserError: this is a batch of tasks.
            OSError: the file cannot be written.
        """
        if self.batched:
            raise UserError("save: this is a batch of tasks; adapt to one task to keep it")
        network, written = self.networks[0], user_path(path)
        content = {
            "kind": KIND,
            "record": json.dumps(sealed(vars(self.record))),
            "run": self.run,
            "classes": self.classes,
            "steps": self.steps,
            "values": held(network),
            "support_x": _as_bytes(self.support.support_x[0]),
            "support_y": self.support.support_y[0],
            "digests": self.digests,
        }
        on_cpu = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in content.items()}
        write_atomic(written, checkpoint.encode(on_cpu))
        return written


def probabilities(outputs: Tensor) -> Tensor:
    """Compute probabilities [..., N] of logits [..., N], or of one logit [..., 1] for two classes."""
    if outputs.shape[-1] > 1:
        return outputs.softmax(-1)
    return torch.cat([torch.sigmoid(-outputs), torch.sigmoid(outputs)], -1)


def _as_bytes(x: Tensor) -> Tensor:
    """Images 0..1 as bytes where nothing is lost by that: a quarter of the size."""
    whole = (255 * x).round().clamp(0, 255).to(torch.uint8)
    return whole if torch.equal(whole.to(x) / 255, x) else x
