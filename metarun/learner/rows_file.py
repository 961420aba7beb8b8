"""A user's files of rows in use: a support set, and rows to predict with a line for each in a CSV file."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metarun.core.batch_norm import Mixing, Norm
from metarun.core.intervals import wilson
from metarun.datasets.own_rows import OwnRows
from metarun.datasets.row_groups import Rows
from metarun.datasets.table_file import listed
from metarun.errors import ConfigError, UserError
from metarun.files import write_text
from metarun.learner.adapted import Adapted
from metarun.learner.learner import Learner
from metarun.learner.rows import Learned
from metarun.results.result import norm_in_words


def read(of: Adapted | Learner, path: Path, key: str) -> Rows:
    """Read a file of rows as the run read its own.

    Args:
        of: a run of own rows, adapted or not.
        path: the file.
        key: the setting that names it: support, or rows to predict.

    Raises:
        UserError: the run's data are no rows; or the file is not as the run's, or has rows of several tasks.
    """
    dataset, learned, support = of.setup.experiment.dataset, of.learned, key == "support"
    if learned is None or not isinstance(dataset, OwnRows):
        raise UserError(
            f"{key}={path}: dataset={of.record.names['dataset']} has no tables; this run takes no such file"
        )
    if not path.is_file():
        raise UserError(f"{key}={path}: is no file; this run takes rows, as dataset={of.record.names['dataset']}")
    try:
        rows = dataset.read_some(path, learned.inputs, support)
    except UserError as error:
        raise UserError(str(error).replace(f"dataset.path={path}", f"{key}={path}", 1)) from None
    if rows.x.shape[1:] != learned.shape:
        raise UserError(
            f"{key}={path}: examples have shape {[*rows.x.shape[1:]]}, and those of the run {[*learned.shape]}"
        )
    if tasks := sorted(set(rows.task or [])):
        told = f"{', '.join(tasks[:3])}{', ...' if tasks[3:] else ''}"
        if len(tasks) > 1:
            raise UserError(f"{key}={path}: has rows of {len(tasks)} tasks ({dataset.task}: {told}); give those of one")
    if support and learned.classes:
        _require_classes(rows, learned.classes, path)
    return rows


def _require_classes(rows: Rows, classes: list[str], path: Path) -> None:
    """Raise ``UserError`` unless each of the classes, which every task has, has a row, and no other has one."""
    for row, name in enumerate(rows.y):
        if name not in classes:
            said = f"class {name} is none of those of this run: {listed(classes)}"
            raise UserError(f"support={path}: {rows.where(row)}, {', '.join(rows.targets)}: {said}")
    if missing := [name for name in classes if name not in rows.y]:
        raise UserError(f"support={path}: has no row of class {listed(missing)}; every task has rows of every class")


@dataclass(frozen=True)
class Predicted:
    """Rows and what is predicted for them.

    Attributes:
        rows: the rows.
        values: [rows, N] probabilities, or [rows, D] numbers in their own units.
        of_support: whether each row is in the support set, so that its prediction is no test.
    """

    rows: Rows
    values: np.ndarray
    of_support: np.ndarray


def predicted(adapted: Adapted, rows: Rows, norm: Norm) -> Predicted:
    """Predict rows.

    Args:
        adapted: one adapted task.
        rows: the rows.
        norm: whose statistics batch norm uses.

    Raises:
        ConfigError: it is ``transductive``, which needs a balanced mix of rows.
    """
    if norm is Norm.transductive and adapted.setup.mixing is not Mixing.none:
        raise ConfigError("eval.norm", norm.name, "support or support_plus_one for rows")
    learned = adapted.learned
    assert learned is not None, "read has looked"
    known = {x.numpy().tobytes() for x in adapted.support.support_x[0].cpu()}
    inside = learned.inside(torch.from_numpy(rows.x), learned.x, len(learned.shape))
    values = adapted.predict(rows.x, norm) if adapted.classes is None else adapted.predict_proba(rows.x, norm)
    return Predicted(rows, values, np.array([x.numpy().tobytes() in known for x in inside]))


def write(adapted: Adapted, found: Predicted, path: Path) -> None:
    """Write a line for each row: its place in the file, what is predicted, and the truth where the file states it.

    Raises:
        OSError: the file cannot be written.
    """
    text, truth = io.StringIO(), found.rows.y
    lines = csv.writer(text, lineterminator="\n")
    if adapted.classes is None:
        names = _learned(adapted).targets
        told = [f"truth({name})" for name in names] if len(truth) else []
        lines.writerow(["row", *names, *told])
        for i, values in enumerate(found.values.tolist()):
            true = [*truth[i]] if told else []
            lines.writerow([i + 1, *(f"{value:.9g}" for value in (*values, *true))])
    else:
        classes = [str(name) for name in adapted.classes]
        lines.writerow(["row", "label", "probability", *(f"P({name})" for name in classes), "truth"])
        for i, chances in enumerate(found.values.tolist()):
            best = int(np.argmax(chances))
            shown = [f"{chance:.6f}" for chance in chances]
            lines.writerow([i + 1, classes[best], shown[best], *shown, truth[i] if len(truth) else ""])
    write_text(path, text.getvalue())


def summary(adapted: Adapted, found: Predicted, norm: Norm) -> str:
    """Describe in a few lines what was predicted, how, and how well where the truth is known."""
    count, names, total = len(adapted.support.support_y[0]), adapted.record.names, len(found.values)
    statistics = "" if adapted.setup.mixing is Mixing.none else f", norm {norm_in_words(norm)}"
    lines = [
        f"{total} rows; adapted to {count} support rows in {adapted.steps} inner steps from {adapted.run} "
        f"({names['algo']}, {names['model']}){statistics}"
    ]
    if known := int(found.of_support.sum()):
        lines.append(f"{known} of them in the support set: predicted, and not counted below")
    counts, truth = ~found.of_support, found.rows.y
    if adapted.classes is not None and len(truth):
        named = np.isin(truth, [str(name) for name in adapted.classes])
        lines += [f"{int((~named).sum())} of them of other classes, and not counted below"] if not named.all() else []
        counts &= named
    tested = np.flatnonzero(counts)
    if not len(truth) or not len(tested):
        return "\n".join(lines)
    over = f"over rows, for this support set: {len(tested)} rows"
    if adapted.classes is not None:
        classes = [str(name) for name in adapted.classes]
        right = sum(classes[int(found.values[i].argmax())] == truth[i] for i in tested)
        low, high = wilson(right, len(tested))
        share = f"accuracy: {100 * right / len(tested):.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f}"
        return "\n".join([*lines, f"{share} {over}, {right} of them right"])
    numbers, support = np.asarray(truth), _support_targets(adapted)
    for d, name in enumerate(_learned(adapted).targets):
        low, middle, high = _root(found.values[tested, d] - numbers[tested, d])
        _, simple, _ = _root(support[:, d].mean() - numbers[tested, d])
        lines.append(
            f"{name}: root mean squared error {middle:.6g}, 95 % interval {low:.6g} to {high:.6g} {over}; "
            f"the mean of the support rows gets {simple:.6g}"
        )
    return "\n".join(lines)


def _root(errors: np.ndarray) -> tuple[float, float, float]:
    """Root mean square of errors, between the roots of the 95 % interval of their mean square."""
    squares = np.square(errors)
    mean = float(squares.mean())
    half = 1.96 * float(squares.std(ddof=1)) / math.sqrt(len(squares)) if len(squares) > 1 else math.inf
    return math.sqrt(max(mean - half, 0)), math.sqrt(mean), math.sqrt(mean + half)


def _support_targets(adapted: Adapted) -> np.ndarray:
    return _learned(adapted).outside(adapted.support.support_y[0].cpu()).numpy()


def _learned(adapted: Adapted) -> Learned:
    assert adapted.learned is not None, "read has looked"
    return adapted.learned
