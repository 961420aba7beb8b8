"""Figures of a data set's classes: a row of pictures for each class, or its series as lines."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from metarun.core.episode import TaskFigure
from metarun.results.axes import COLOURS
from metarun.results.examples import tiled

SIDE = 0.62  # inches of a picture
ACROSS = 4  # panels of series side by side


class Part(NamedTuple):
    """Some classes of one split.

    Attributes:
        title: which, in words.
        classes: class name -> its first examples, [B, ...].
    """

    title: str
    classes: dict[str, Tensor]


def drawn(kind: TaskFigure, parts: list[Part], ink: bool) -> Figure | None:
    """Draw classes of each split in the way that suits their examples.

    Args:
        kind: kind of figure of their tasks.
        parts: the splits.
        ink: whether a channel is the amount of ink, drawn dark on white; otherwise it is light, as in a photograph.

    Returns:
        The figure; None if there is none for such examples.
    """
    if kind is TaskFigure.images:
        return pictures(parts, ink)
    return series(parts) if kind is TaskFigure.none else None


def pictures(parts: list[Part], ink: bool) -> Figure:
    """Draw images, a row for each class; ``ink`` as for ``drawn``."""
    columns = max(len(images) for part in parts for images in part.classes.values())
    rows = [len(part.classes) for part in parts]
    figure = Figure(figsize=(SIDE * columns + 1.6, SIDE * sum(rows) + 0.35 * len(parts)), layout="constrained")
    places = figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axes, part in zip(places, parts, strict=True):
        whole = tiled(list(part.classes.values()), ink)
        height = whole.shape[0] / len(part.classes)
        axes.imshow(whole, cmap="gray", vmin=0, vmax=1)
        axes.set_title(part.title, fontsize=9, loc="left")
        middles = [height * (row + 0.5) for row in range(len(part.classes))]
        axes.set_yticks(middles, [printable(name) for name in part.classes], fontsize=8, parse_math=False)
        axes.set_xticks([])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def series(parts: list[Part]) -> Figure:
    """Draw examples that are no pictures as lines over their last axis, a panel for each class.

    A colour is a channel; of examples with more axes the first channels are drawn.
    """
    named = [(part, name, x) for part in parts for name, x in part.classes.items()]
    rows = -(-len(named) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, ACROSS, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(named) :]:
        axes.axis("off")
    for axes, (part, name, x) in zip(grid.flat, named, strict=False):
        channels = x.detach().cpu().float().reshape(len(x), -1, x.shape[-1])[:, : len(COLOURS)]
        for colour, lines in zip(COLOURS, channels.unbind(1), strict=False):
            axes.plot(lines.T.numpy(), color=colour, lw=0.8, alpha=0.6)
        split = part.title.partition(":")[0]
        axes.set_title(f"{printable(name)} ({split})", fontsize=8, parse_math=False)
        axes.tick_params(labelsize=6)
    return figure


def printable(name: str) -> str:
    """Return a name in at most 24 letters that a font can have."""
    short = name if len(name) <= 24 else f"{name[:23]}…"
    return "".join(c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else "?" for c in short)
