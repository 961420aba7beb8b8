"""What people have, as inputs and labels of a network: arrays, tensors, image files and folders of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarun.datasets.base import Dataset
from metarun.datasets.class_folders import SUFFIXES
from metarun.datasets.imagefile import image_files
from metarun.errors import UserError
from metarun.files import user_path
from metarun.learner.rows import Learned

Label = str | int | float | bool
Inputs = Any  # an array, a tensor, a path, or a list of them


@dataclass(frozen=True)
class Labels:
    """Labels as numbers.

    Attributes:
        classes: the different labels in order; the number of a label is its place here.
        numbers: [B] or [T, B] int64.
    """

    classes: list[Label]
    numbers: Tensor


def examples(x: Inputs, dataset: Dataset, learned: Learned | None = None) -> Tensor:
    """Convert examples to what the network takes.

    Args:
        x: image files as paths, read as the run read its own; or an array or tensor [..., *input_shape] (or a list
            of such). Where a run's data are images, bytes are 0..255 and numbers with a point 0..1; where they are
            rows, numbers are as in the user's file.
        dataset: the run's data set, with its settings.
        learned: what the run learned of its rows; None: its data are no rows.

    Returns:
        [..., *input_shape] float32.

    Raises:
        UserError: a file is unreadable, or shape or values are not those of the run's data.
    """
    if isinstance(x, str | Path):
        x = [x]
    if isinstance(x, list | tuple) and x and all(isinstance(one, str | Path) for one in x):
        return torch.from_numpy(np.stack([dataset.picture(user_path(path)) for path in x])).float() / 255
    values, shape = _tensor(x, "x"), learned.shape if learned else dataset.input_shape
    if values.ndim <= len(shape) or tuple(values.shape[values.ndim - len(shape) :]) != shape or not values.numel():
        own = f"(..., {', '.join(map(str, shape))})"
        raise UserError(f"x: has shape {_shape(values)}, and examples of this run have {own}")
    if values.dtype is torch.uint8 and dataset.has_pictures():
        return values.float() / 255
    if not values.isfinite().all():
        raise UserError("x: has values that are not finite")
    if learned:
        return learned.inside(values, learned.x, len(shape))
    values = values.to(torch.float32)
    low, high = float(values.min()), float(values.max())
    if dataset.has_pictures() and (low < 0 or high > 1):
        raise UserError(f"x: its values are {low:g}..{high:g}; an image of this run is bytes (uint8), or numbers 0..1")
    return values


def labels(y: Any, shape: Sequence[int], known: Sequence[str] = ()) -> Labels:
    """Number the labels of a support set.

    Args:
        y: labels, texts or whole numbers: a list or array [B], or [T, B] for a batch of tasks.
        shape: [B] or [T, B].
        known: the classes that every task has, in the order of their labels; none: any.

    Raises:
        UserError: there are not as many labels as examples, or they are of another kind, or of no known class.
    """
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != tuple(shape):
        raise UserError(f"y: has shape {_shape(array)}, and there are {_shape(shape)} examples")
    if array.dtype.kind == "O" or (array.dtype.kind == "f" and not (array == np.rint(array)).all()):
        raise UserError("y: must be texts or whole numbers, one for each example")
    classes, numbers = np.unique(array, return_inverse=True)
    whole = classes.astype(np.int64) if array.dtype.kind == "f" else classes
    found, numbers = whole.tolist(), numbers.reshape(array.shape).astype(np.int64)
    if known:
        if others := [str(name) for name in found if str(name) not in known]:
            raise UserError(f"y: class {others[0]} is none of those of this run: {', '.join(known)}")
        numbers = np.array([known.index(str(name)) for name in found], np.int64)[numbers]
    return Labels(list(known) or found, torch.from_numpy(numbers))


def targets(y: Any, shape: Sequence[int], outputs: int, learned: Learned | None = None) -> Tensor:
    """Convert numbers to predict.

    Args:
        y: numbers [B] or [B, outputs]; with an axis T in front for a batch of tasks.
        shape: [B] or [T, B].
        outputs: numbers to predict for one example.
        learned: as for ``examples``.

    Returns:
        [B, outputs] or [T, B, outputs] float32.

    Raises:
        UserError: the shape does not fit, or values are not finite.
    """
    values = _tensor(y, "y")
    wanted = (*shape, outputs)
    if outputs == 1 and tuple(values.shape) == tuple(shape):
        values = values[..., None]
    if tuple(values.shape) != wanted:
        raise UserError(f"y: has shape {_shape(values)}, and must have {_shape(wanted)}")
    if not values.isfinite().all():
        raise UserError("y: has values that are not finite")
    return learned.inside(values, learned.y, 1) if learned else values.to(torch.float32)


def class_folder(folder: Path) -> dict[str, list[Path]]:
    """Find the pictures of a support set: a folder for each class, with image files directly inside.

    Raises:
        UserError: there is no such folder, or a class without pictures, or there are fewer than two classes.
    """
    if not folder.is_dir():
        raise UserError(f"support={folder}: is no folder; it needs a folder of pictures for each class")
    found = {path.name: image_files(path, SUFFIXES) for path in sorted(folder.glob("[!.]*")) if path.is_dir()}
    if empty := [name for name, files in found.items() if not files]:
        raise UserError(f"support={folder}: no picture in {', '.join(empty[:3])}; each folder in it is a class")
    if len(found) < 2:
        raise UserError(f"support={folder}: has {len(found)} folders; it needs one for each class, at least two")
    return found


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, by which a picture is known again wherever it lies."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensor(values: Any, name: str) -> Tensor:
    """The values as a tensor on the CPU; a list of arrays becomes one."""
    if isinstance(values, list | tuple) and values and all(isinstance(one, Tensor) for one in values):
        values = torch.stack(list(values))
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        return torch.tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: must be an array of numbers, all examples of one shape ({error})") from None


def _shape(of: Any) -> str:
    return str(tuple(getattr(of, "shape", of)))
