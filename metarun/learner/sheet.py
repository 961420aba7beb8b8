"""Figures of predictions: a sheet of the support set and the least certain pictures, and the confusion table."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from metarun.learner.adapted import Adapted
from metarun.learner.predict import Predictions
from metarun.results.task_figures import BAD, GOOD, framed, short_name

COLUMNS, SHOWN, ROWS = 8, 16, 20  # pictures in a row, least certain pictures, classes


def contact_sheet(adapted: Adapted, found: Predictions) -> Figure:
    """Draw the support set, a row for each class, and below it the pictures whose largest probability is lowest.

    A picture of known truth has a green or red frame.

    Args:
        adapted: the adapted task.
        found: its predictions.
    """
    support, labels = adapted.support.support_x[0].cpu(), adapted.support.support_y[0].cpu()
    ink = adapted.setup.experiment.dataset.ink
    order = np.argsort(found.probabilities.max(1), kind="stable")[:SHOWN].tolist()
    classes = found.classes[:ROWS]
    below = -(-len(order) // COLUMNS)
    figure = Figure(figsize=(1.1 * COLUMNS + 1, 1.1 * len(classes) + 1.7 * below + 0.4))
    heights = [1.0] * len(classes) + [1.6] * below
    grid = figure.subplots(len(heights), COLUMNS, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.axis("off")
    for row, name in enumerate(classes):
        for axes, x in zip(grid[row], support[labels == row][:COLUMNS], strict=False):
            framed(axes, x, 0, 1, ink, "0.7")
        grid[row, 0].set_ylabel(short_name(name), fontsize=7, rotation=0, va="center", ha="right", parse_math=False)
    more = len(found.classes) - len(classes)
    grid[0, 0].set_title(f"support set{f' ({more} more classes)' if more else ''}", fontsize=8, loc="left")
    for at, i in enumerate(order):
        axes, picture = grid[len(classes) + at // COLUMNS, at % COLUMNS], found.pictures[i]
        label, chance = found.labels[i], found.probabilities[i].max()
        frame = "0.7" if picture.truth is None else GOOD if picture.truth == found.classes[label] else BAD
        framed(axes, torch.tensor(picture.pixels).float() / 255, 0, 1, ink, frame, 2)
        said = f"{_in_a_line(picture.path.name)}\n{_in_a_line(found.classes[label])} {100 * chance:.0f} %"
        axes.set_xlabel(said, fontsize=6, parse_math=False)
    if len(order):
        grid[len(classes), 0].set_title("least certain", fontsize=8, loc="left")
    return figure


def _in_a_line(name: str) -> str:
    """A name in at most 18 letters, the end of a longer one, where files differ."""
    printable = short_name(name) if len(name) <= 11 else "".join(c if c.isprintable() else "?" for c in name)
    return printable if len(printable) <= 18 else f"…{printable[-17:]}"


def confusion(found: Predictions) -> Figure:
    """Draw the confusion table: rows are true classes, columns predicted ones, darker where the row's share is larger.

    Args:
        found: predictions of pictures, of some of which the truth is known.
    """
    counts, way = found.confusion, len(found.classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(max(3.5, 0.5 * way + 1.5), max(3.0, 0.5 * way + 1)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [short_name(name) for name in found.classes]
    axes.set_xticks(range(way), names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(way), names, fontsize=7, parse_math=False)
    axes.set(xlabel="predicted", ylabel="truth")
    for (row, column), count in np.ndenumerate(counts):
        if count and way <= 30:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    return figure
