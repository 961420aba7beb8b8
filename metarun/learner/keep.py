"""Load an adapted task from the file that ``Adapted.save`` wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metarun.config.earlier import reopen
from metarun.core.episode import Episode
from metarun.errors import UserError
from metarun.files import read_file, user_path
from metarun.learner.adapted import KIND, Adapted
from metarun.learner.frozen import held, restore
from metarun.learner.load import require_labelled, uncompiled, without_data
from metarun.runs import checkpoint
from metarun.runs.record import Record


def load_adapted(path: str | Path, *, device: str = "auto") -> Adapted:
    """Load an adapted task. Neither the run nor its data nor the support set's files are needed.

    Args:
        path: the file that ``Adapted.save`` or ``metarun adapt`` wrote.
        device: "cpu", "cuda" or "auto", a GPU where there is one.

    Raises:
        UserError: it is no such file, or it is damaged.
    """
    return reopened(user_path(path), uncompiled([f"device={device}"]))


def reopened(path: Path, overrides: list[str]) -> Adapted:
    """Do what ``load_adapted`` does, with settings changed.

    Args:
        path: the file.
        overrides: of keys that a test reads.
    """
    content = _content(path)
    kept = Record.of(content["record"], path)
    experiment, record = reopen(kept, overrides)
    record = replace(record, data=kept.data)
    require_labelled(experiment, record, str(path))
    values, classes = content["values"], content["classes"]
    head = None
    if classes is not None and not experiment.dataset.binary:
        head = len(classes)
    setup = without_data(experiment, record, head)
    network = restore(setup.module, values).to(setup.device)
    missing = held(network).keys() ^ values.keys()
    if missing:
        raise UserError(f"{path}: does not fit this version of the network: {', '.join(sorted(missing)[:3])}")
    x, y = (content[name][None].to(setup.device) for name in ("support_x", "support_y"))
    x = x.float() / 255 if x.dtype is torch.uint8 else x
    return Adapted(
        setup=setup,
        record=record,
        classes=classes,
        steps=content["steps"],
        support=Episode(x, y, x[:, :0], y[:, :0], torch.zeros(1, dtype=torch.int64, device=setup.device)),
        networks=[network],
        batched=False,
        run=content["run"],
        digests=content["digests"],
    )


def _content(path: Path) -> dict[str, Any]:
    """What the file holds; raises ``UserError`` where it is no adapted task."""
    if read_file(path) is None:
        raise UserError(f"{path}: there is no such file")
    try:
        content = checkpoint.read(path)
    except checkpoint.Damaged:
        raise UserError(f"{path}: is damaged, or no file that metarun adapt wrote") from None
    if content.get("kind") != KIND:
        raise UserError(f"{path}: is a checkpoint, and not what metarun adapt wrote; use run=RUN and support=DIR")
    return content
