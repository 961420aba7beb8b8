"""Export a network with all that using it elsewhere needs, and compare what was written with the original."""

from __future__ import annotations

import copy
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metarun.core.objective import supervised
from metarun.errors import UserError, first_line
from metarun.files import new_folder, user_path, write_json, write_text
from metarun.learner import card
from metarun.learner.adapted import Adapted
from metarun.learner.formats import LOAD, NETWORK, Format
from metarun.learner.learner import Learner

EXAMPLES = 16  # that outputs are compared for, and as many of another kind
ROUNDING = 1e-4  # largest difference from the original outputs, relative to the largest output


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        of: where it is from.
        network: the network, in ``eval()``, on the CPU.
        x: [B, ...] examples as it takes them.
    """

    of: Adapted | Learner
    network: nn.Module
    x: Tensor

    @staticmethod
    def make(of: Adapted | Learner) -> Subject:
        """Take the network of an adapted task, or of an initialisation.

        Raises:
            UserError: it is a batch of tasks; or the initialisation predicts nothing by itself.
        """
        if isinstance(of, Adapted):
            network, x = of.module(), of.support.support_x[0, :EXAMPLES].cpu()
        else:
            require_alone(of)
            network = of.module().eval().requires_grad_(False)
            x = torch.rand(EXAMPLES, *of.input_shape, generator=torch.Generator().manual_seed(0))
        x = torch.cat([x, 2 * x + 1])  # with examples of another kind
        return Subject(of, copy.deepcopy(network).cpu(), of.learned.raw(x) if of.learned else x)

    def batches(self) -> Iterator[Tensor]:
        """Examples for which outputs are compared: all, and one alone where others must not matter."""
        yield self.x
        yield self.x[:1] if isinstance(self.of, Adapted) else self.x[: len(self.x) // 2]


def require_alone(of: Learner) -> None:
    """Raise ``UserError`` where the network means nothing before a task gives it a head or a state."""
    problem = supervised(of.setup.problem, "export")
    if not of.setup.experiment.algo.predicts_unadapted(problem):
        algo = of.record.names["algo"]
        raise UserError(
            f"support: has no value, and a run of algo={algo} needs one: its network predicts nothing before a support "
            "set has given it a head or a state"
        )


def export(of: Adapted | Learner, out: str | Path, format: str = "state_dict", *, command: Sequence[str] = ()) -> Path:
    """Write a network into a new folder, with the lines that load it without metarun, and a card that describes it.

    The folder is complete or not there. What was written is loaded again and compared with the original.

    Args:
        of: an adapted task, whose network is frozen; or a learner, whose network is the initialisation.
        out: the folder, which must be new or empty.
        format: "state_dict", "safetensors", "torch_export" or "onnx".
        command: the words that were typed after ``metarun``, for the card; none where it was no command.

    Returns:
        The folder.

    Raises:
        UserError: the network cannot be exported so; or it gives other outputs when it is loaded again.
        OSError: a file cannot be written.
    """
    kind, path = Format.of(format), user_path(out)
    subject = Subject.make(of)
    facts = card.Facts.of_network(of, kind, subject.x, subject.network(subject.x))
    with new_folder(path) as folder:
        kind.write(folder, subject.network, subject.x, facts.metadata())
        write_json(folder / "config.json", facts.config())
        write_json(folder / "classes.json", facts.classes)
        write_text(folder / LOAD, kind.loading(subject.x))
        apart = _compared(folder, kind, subject)
        write_text(folder / "README.md", card.text(facts, list(command), apart))
    return path


def _compared(folder: Path, kind: Format, subject: Subject) -> float:
    """Load what was written as its reader will; returns the largest difference, relative to the largest output."""
    differences = []
    try:
        network = reloaded(folder)["network"]
        for x in subject.batches():
            with torch.no_grad():
                own, other = subject.network(x), torch.as_tensor(network(kind.given(x)))
            if own.shape != other.shape or own.dtype != other.dtype:
                raise UserError(f"{tuple(other.shape)} {other.dtype}, not {tuple(own.shape)} {own.dtype}")
            differences.append(float((own - other).abs().max() / own.abs().max().clamp_min(1e-30)))
    except Exception as error:  # of any kind: it depends on what was written
        said = f"what was written cannot be used ({first_line(error)})"
        raise UserError(f"format={kind.name}: {said}; nothing is left of it") from error
    if not all(difference <= ROUNDING for difference in differences):  # also where one is not a number
        told = " and ".join(f"{difference:.2g}" for difference in differences)
        said = f"what was written gives other outputs (they differ by {told} of the largest)"
        raise UserError(f"format={kind.name}: {said}; nothing is left of it")
    return max(differences)


def reloaded(folder: Path) -> dict[str, Any]:
    """Run ``load.py`` of a folder as a script, and return its names."""
    with _first_on_the_path(folder):
        return runpy.run_path(str(folder / LOAD))


@contextmanager
def _first_on_the_path(folder: Path) -> Iterator[None]:
    """Import from this folder first, as its scripts do; what was imported from it is forgotten afterwards."""
    name = NETWORK.removesuffix(".py")
    module, written = sys.modules.pop(name, None), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
        sys.dont_write_bytecode = written
        if module is not None:
            sys.modules[name] = module
