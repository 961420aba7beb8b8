"""``metarun adapt``: adapt a run to pictures or rows of one's own, and keep the result in one file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, require

if TYPE_CHECKING:
    from metarun.learner.adapted import Adapted
    from metarun.learner.learner import Learner

DELIMITER = "dataset.delimiter="  # of the user's file, which need not be as that of the training


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "adapt",
        usage="metarun adapt run=PATH|zoo:NAME support=DIR|FILE out=MODEL [checkpoint=best|last] [KEY=VALUE ...]",
        description="Adapts a run to a support set of your own pictures, a folder for each class, and writes all that\n"
        "metarun predict needs to the file MODEL. The data that the run was trained on are not needed. Pictures are\n"
        "read as the run read its own. For a run of dataset=table or arrays the support set is a file of rows of one\n"
        "task, with the run's columns. Keys: algo.eval_inner_steps, algo.inner_lr, device, others of algo that a\n"
        "test reads, and dataset.delimiter, of the file.",
        epilog="  metarun adapt run=outputs/RUN support=photos/known out=fruit.model algo.eval_inner_steps=10",
    )
    command.setting("run", "PATH|zoo:NAME", "the run's folder, or an entry of the zoo")
    command.setting("support", "DIR|FILE", "a folder with a folder of pictures for each class, or a file of rows")
    command.setting("out", "MODEL", "the file to write")
    command.setting("checkpoint", "best|last", "which parameters to adapt (the run's own choice)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Adapt and write the file. Returns the exit status."""
    for name in ("run", "support", "out"):
        if getattr(given, name) is None:
            raise UserError(f"{name}: has no value, and needs one: metarun adapt run=PATH support=DIR out=MODEL")
    from metarun.files import user_path

    out = user_path(given.out)
    require_file(out, given.out)
    adapted = adapt(given, given.words)
    adapted.save(out)
    print(f"{_told(adapted)}\nwritten: {out}")
    return 0


def _told(adapted: Adapted) -> str:
    """What the network was adapted to, in a line."""
    import torch

    from metarun.learner.adapted import AT_ONCE

    x, y = adapted.support.support_x[0], adapted.support.support_y[0]
    what = "pictures" if adapted.learned is None else "rows"
    if adapted.classes is None:
        return f"{len(y)} {what}, {adapted.steps} inner steps"
    outputs = torch.cat([adapted.networks[0](some) for some in x.split(AT_ONCE)])
    classes = [str(name) for name in adapted.classes]
    chosen = outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs[:, 0] > 0).long()
    named = f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
    known = f"of these {what} {int((chosen == y).sum())} are recognised"
    return f"{len(classes)} classes ({named}), {len(y)} {what}, {adapted.steps} inner steps; {known}"


def adapt(given: argparse.Namespace, words: list[str]) -> Adapted:
    """Load the run of a command line and adapt it to the support set.

    Args:
        given: the settings run, support and checkpoint.
        words: settings of the run to change.

    Raises:
        UserError: a word is no setting that adapting reads, or run and support set do not fit together.
    """
    from metarun.files import user_path
    from metarun.learner import rows_file
    from metarun.learner.inputs import class_folder

    support = user_path(given.support)
    if not support.is_file():  # before seconds of loading
        class_folder(support)
    learner = loaded(given, words)
    if support.is_file() or learner.learned:
        rows = rows_file.read(learner, support, "support")
        with learner.setup.experiment.device.applied():
            return learner.adapt(rows.x, rows.y)
    if not learner.setup.experiment.dataset.has_pictures():
        name = learner.record.names["dataset"]
        raise UserError(f"run={given.run}: dataset={name} has no pictures; metarun.load in Python takes its examples")
    with learner.setup.experiment.device.applied():
        return learner.adapt(support)


def loaded(given: argparse.Namespace, words: list[str]) -> Learner:
    """Load the run of a command line.

    Args:
        given: the settings run and checkpoint.
        words: settings of the run to change.

    Raises:
        UserError: a word is no setting that adapting reads, or it is no run that can be loaded.
    """
    for word in words:
        if not word.startswith(("algo.", "device=", "device.", DELIMITER)):
            takes = "algo.*, device and dataset.delimiter"
            raise UserError(f"{word}: {given.command} does not read it; of the run's keys it takes {takes}")
    from metarun.config.overrides import as_typed
    from metarun.learner.load import learner, uncompiled
    from metarun.runs import zoo

    return learner(zoo.run_folder(given.run), given.checkpoint, as_typed(uncompiled(words)))


def model(given: argparse.Namespace, words: list[str]) -> Adapted:
    """Load the model of a command line, which is adapted already.

    Args:
        given: the setting model.
        words: settings to change.

    Raises:
        UserError: a word is no setting that a model still reads, or the file is no model.
    """
    predicts = given.command == "predict"  # and so reads a file; export has no more to read
    for word in words:
        if not word.startswith(("device=", "device.", *([DELIMITER] if predicts else []))):
            takes = "eval.norm, device and dataset.delimiter" if predicts else "device"
            raise UserError(f"{word}: a model is adapted already; {given.command} takes {takes} with it")
    from metarun.files import user_path
    from metarun.learner.keep import reopened
    from metarun.learner.load import uncompiled

    return reopened(user_path(given.model), uncompiled(words))


def require_alone(given: argparse.Namespace) -> None:
    """Raise ``UserError`` where a model is given together with what it was made of."""
    if given.model is not None and (given.support is not None or given.checkpoint is not None):
        raise UserError("support, checkpoint: model=MODEL is adapted already; they go with run=PATH")


def require_file(out: Path, typed: str) -> None:
    """Raise ``UserError`` unless ``out`` can be written as a file."""
    fit = out.parent.is_dir() and (out.is_file() or not out.exists())
    require(fit, "out", typed, "a plain file in an existing folder")
