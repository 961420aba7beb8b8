"""Checkpoints: plain torch files with a checksum. They load without running code and are replaced in one step."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.meta import Meta
from metarun.core.metric import Metric
from metarun.errors import UserError
from metarun.files import read_file, write_atomic
from metarun.runs.owner import Owner

FORMAT = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
TESTED = "tested.pt"  # the meta-parameters that a run was tested on, in place of these files; for the zoo


@dataclass
class Selection:
    """The best meta-parameters on validation so far.

    Attributes:
        step: meta-iterations done when they were measured.
        value: the mean metric over the validation tasks.
        ci95: half-width of its 95 % interval.
        meta: the meta-parameters.
        diverged: validation tasks that diverged; 0 for older files, which do not store it.
        others: the next best ones, best first, for an ensemble (``eval.ensemble``).
    """

    step: int
    value: float
    ci95: float
    meta: Meta
    diverged: int = 0
    others: list[Selection] = field(default_factory=list)

    def and_later(self, later: Selection, metric: Metric, most: int) -> Selection:
        """Return the best of these and a later one with the next best, at most ``most``; equal ones in their order."""
        every = [replace(of, others=[]) for of in (self, *self.others, later)]
        best, *others = sorted(every, key=lambda of: -metric.goodness(of.value))[:most]
        return replace(best, others=others)

    def moved(self, device: torch.device) -> Selection:
        """Return the same with its parameters on ``device``."""
        return replace(self, meta=_moved(self.meta, device), others=[of.moved(device) for of in self.others])

    def plain(self) -> dict[str, Any]:
        """Return the content for a file."""
        others = {"others": [of.plain() for of in self.others]} if self.others else {}
        return {
            **{key: value for key, value in vars(self).items() if key != "others"},
            "meta": self.meta.flat(),
            **others,
        }

    @staticmethod
    def of(content: dict[str, Any]) -> Selection:
        """Undo ``plain``."""
        others = [Selection.of(of) for of in content.get("others", [])]
        return Selection(**{**content, "meta": Meta.from_flat(content["meta"]), "others": others})


@dataclass
class TrainState:
    """The whole state of a run between two meta-iterations. Tasks have no state: they are functions of the step.

    Attributes:
        step: meta-iterations done.
        meta: the meta-parameters.
        optimizer: the outer optimiser's state dict, from torch.
        selection: the best meta-parameters on validation; None before the first validation with a result.
    """

    step: int
    meta: Meta
    optimizer: dict[str, Any]
    selection: Selection | None

    def to(self, device: torch.device) -> TrainState:
        """Return the state with its parameters on ``device``. An optimiser moves its own state when it loads it."""
        selection = self.selection and self.selection.moved(device)
        return TrainState(self.step, _moved(self.meta, device), self.optimizer, selection)


def _moved(meta: Meta, device: torch.device) -> Meta:
    return tree.combine(lambda p: p.to(device), meta)


class Damaged(Exception):
    """The file is not a checkpoint, or its content has changed since it was written."""


def folder(run_dir: Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return run_dir / "checkpoints"


def selected(run_dir: Path) -> bool:
    """Whether a run has parameters selected on validation, besides its last ones."""
    return (folder(run_dir) / BEST).exists()


def tested_alone(run_dir: Path) -> bool:
    """Whether of a run's parameters only those are there that it was tested on, as in the zoo."""
    return (folder(run_dir) / TESTED).exists()


def save(run_dir: Path, state: TrainState, training: dict[str, Any] | None = None) -> Path:
    """Write ``last.pt`` and, from the selection, ``best.pt``. The old ``last.pt`` becomes ``previous.pt``.

    Args:
        run_dir: the run folder.
        state: the state to save.
        training: the settings that determine the state, dotted key -> value, for ``Owner``. The bytes of the files
            depend on ``state`` and ``training`` alone.

    Returns:
        The path of ``last.pt``.

    Raises:
        OSError: the disk refuses to write; the older files stay.
    """
    target = folder(run_dir)
    target.mkdir(parents=True, exist_ok=True)
    chosen = state.selection
    best = chosen.plain() if chosen else {}
    content = {
        "step": state.step,
        "meta": state.meta.flat(),
        "optimizer": state.optimizer,
        "selection": None if chosen is None else best,
    }
    whose = {"training": training} if training else {}
    data = encode({**content, **whose})
    if chosen is not None:
        write_atomic(target / BEST, encode({**best, **whose}))
    write_atomic(target / LAST, data, keep_old=target / PREVIOUS)
    return target / LAST


def load(run_dir: Path, owner_of: Callable[[], Owner] | None = None) -> TrainState | None:
    """Load the newest undamaged state, on the CPU. Warns of each damaged file that it skips.

    Args:
        run_dir: the run folder.
        owner_of: computes the training that the checkpoint must belong to; called only where there is a checkpoint.

    Returns:
        The state, or None where no checkpoint was written yet.

    Raises:
        UserError: every checkpoint is damaged, or one belongs to another training.
    """
    found = [path for path in (folder(run_dir) / LAST, folder(run_dir) / PREVIOUS) if read_file(path) is not None]
    owner = owner_of() if found and owner_of else None
    for path in found:
        try:
            content = read(path, owner)
        except Damaged as error:
            warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
            continue
        chosen = content["selection"]
        selection = None if chosen is None else Selection.of(chosen)
        return TrainState(content["step"], Meta.from_flat(content["meta"]), content["optimizer"], selection)
    if found:
        raise UserError(f"{folder(run_dir)}: every checkpoint is damaged; start again in another run_dir")
    return None


def read(path: Path, owner: Owner | None = None) -> dict[str, Any]:
    """Read and verify one checkpoint file, with its tensors on the CPU.

    Args:
        path: the file.
        owner: the training that it must belong to; None: any.

    Raises:
        Damaged: there is no file, its content is not a checkpoint, or its checksum is wrong.
        UserError: the path is not a regular file, or the checkpoint belongs to another training.
    """
    data = read_file(path)
    try:
        file = torch.load(io.BytesIO(data or b""), map_location="cpu", weights_only=True)
        content, recorded = file["content"], file["sha256"]
        whole = file["format"] == FORMAT and digest(content) == recorded
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds of error for a file that it did not write
        raise Damaged(f"{path}: damaged checkpoint ({type(error).__name__})") from error
    if not whole:
        raise Damaged(f"{path}: damaged checkpoint (its checksum does not fit)")
    if owner is not None:
        owner.check(path, content, resumes=path.name not in (BEST, TESTED))
    return content


def encode(content: dict[str, Any]) -> bytes:
    """Return the bytes of a file that ``read`` reads: plain values and tensors, with a checksum."""
    buffer = io.BytesIO()  # not a path: torch writes the file's name into the file
    torch.save(_plain({"format": FORMAT, "sha256": digest(content), "content": content}), buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """Return a copy whose pickle depends on values alone.

    pickle writes an object once and refers to it afterwards, so its bytes depend on which strings and tensors are the
    same object. That differs between a resumed run and one that was not interrupted.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return sys.intern(value) if isinstance(value, str) else value


def digest(content: Any) -> str:
    """Compute the SHA-256 of names, types, shapes and bits; it is the same on every device."""
    hasher = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, Tensor):
            hasher.update(f"{value.dtype}{tuple(value.shape)}".encode())
            hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            hasher.update(f"dict{len(value)}".encode())
            for key, item in value.items():
                feed(key)
                feed(item)
        elif isinstance(value, list | tuple):
            hasher.update(f"list{len(value)}".encode())
            for item in value:
                feed(item)
        else:
            hasher.update(f"{type(value).__name__}:{value!r};".encode())

    feed(content)
    return hasher.hexdigest()
