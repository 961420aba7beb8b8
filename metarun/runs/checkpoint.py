"""Checkpoints: plain torch files that load without running code, carry a checksum, and are never half written."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.meta import Meta
from metarun.errors import UserError
from metarun.files import read_file, write_atomic
from metarun.runs.owner import Owner

FORMAT = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


@dataclass
class Selection:
    """The best meta-parameters on validation so far."""

    step: int
    value: float  # mean metric over the validation tasks
    ci95: float
    meta: Meta
    diverged: int = 0  # how many of these tasks did; older files do not say


@dataclass
class TrainState:
    """Everything that a run is between two meta-iterations; tasks need no state, they are functions of the step."""

    step: int  # meta-iterations done
    meta: Meta
    optimizer: dict[str, Any]  # torch's state dict
    selection: Selection | None

    def to(self, device: torch.device) -> TrainState:
        """The same with its parameters there; an optimiser moves its state itself when it takes it."""

        def moved(meta: Meta) -> Meta:
            return tree.combine(lambda p: p.to(device), meta)

        chosen = self.selection
        selection = chosen and dataclasses.replace(chosen, meta=moved(chosen.meta))
        return TrainState(self.step, moved(self.meta), self.optimizer, selection)


class Damaged(Exception):
    """A file that is no checkpoint, or no longer the one that was written."""


def folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def selected(run_dir: Path) -> bool:
    """Whether a run has parameters that validation chose, beside its last ones."""
    return (folder(run_dir) / BEST).exists()


def save(run_dir: Path, state: TrainState, training: dict[str, Any] | None = None) -> Path:
    """Write ``last.pt``; what was last becomes ``previous.pt``. ``best.pt`` follows the selection. Returns last.

    training: the settings that decided the state, for ``Owner``. Bits depend on both alone.
    Raises ``OSError`` where the disk does not take it; older files stay.
    """
    target = folder(run_dir)
    target.mkdir(parents=True, exist_ok=True)
    chosen = state.selection
    best = {**vars(chosen), "meta": chosen.meta.flat()} if chosen else {}
    content = {
        "step": state.step,
        "meta": state.meta.flat(),
        "optimizer": state.optimizer,
        "selection": None if chosen is None else best,
    }
    whose = {"training": training} if training else {}
    data = _encode({**content, **whose})
    if chosen is not None:
        write_atomic(target / BEST, _encode({**best, **whose}))
    write_atomic(target / LAST, data, keep_old=target / PREVIOUS)
    return target / LAST


def load(run_dir: Path, owner_of: Callable[[], Owner] | None = None) -> TrainState | None:
    """The newest state that is whole, on the CPU, else None where no checkpoint was written yet.

    Warns of a damaged file that it passes over. Raises ``UserError`` where files are there and none is whole, and for
    one that is not the owner's, which is asked for only then.
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
        selection = None if chosen is None else Selection(**{**chosen, "meta": Meta.from_flat(chosen["meta"])})
        return TrainState(content["step"], Meta.from_flat(content["meta"]), content["optimizer"], selection)
    if found:
        raise UserError(f"{folder(run_dir)}: every checkpoint is damaged; start again in another run_dir")
    return None


def read(path: Path, owner: Owner | None = None) -> dict[str, Any]:
    """The content of one checkpoint file, verified, on the CPU.

    Raises ``Damaged``, and ``UserError`` for what is no file or not the ``owner``'s.
    """
    data = read_file(path)
    try:
        file = torch.load(io.BytesIO(data or b""), map_location="cpu", weights_only=True)
        content, recorded = file["content"], file["sha256"]
        whole = file["format"] == FORMAT and _digest(content) == recorded
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise Damaged(f"{path}: damaged checkpoint ({type(error).__name__})") from error
    if not whole:
        raise Damaged(f"{path}: damaged checkpoint (its checksum does not fit)")
    if owner is not None:
        owner.check(path, content, selected=path.name == BEST)
    return content


def _encode(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()  # not a path: torch writes the file's name into the file
    torch.save(_plain({"format": FORMAT, "sha256": _digest(content), "content": content}), buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """A copy whose pickle depends on values alone: pickle writes an object once and then refers to it, so it shows
    which strings and tensors happen to be the same object, which a resumed run does not share with the first."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return sys.intern(value) if isinstance(value, str) else value


def _digest(content: Any) -> str:
    """SHA-256 over names, types, shapes and bits, the same on every device."""
    digest = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            digest.update(f"dict{len(value)}".encode())
            for key, item in value.items():
                feed(key)
                feed(item)
        elif isinstance(value, list | tuple):
            digest.update(f"list{len(value)}".encode())
            for item in value:
                feed(item)
        else:
            digest.update(f"{type(value).__name__}:{value!r};".encode())

    feed(content)
    return digest.hexdigest()
