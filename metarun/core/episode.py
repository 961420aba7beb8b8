"""Episode: a batch of few-shot tasks, and the shape legend that every file uses.

Shape legend
    T  tasks in a meta-batch (or in a chunk of one)
    N  way: classes in a task
    K  shot: support examples per class
    Q  query examples per class
    S  inner steps
    B  examples in one forward pass
    C, H, W  channels, height and width of an image

Code for one task never sees the axis T; only ``over_tasks.py`` adds it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from torch import Tensor


class View(enum.Enum):
    """The form in which a method gets the meta-training data.

    Attributes:
        tasks: few-shot tasks, as at test.
        pooled: mini-batches of all meta-training classes at once, labelled with their class numbers, as in ordinary
            supervised learning.
        revealed: tasks whose inputs also contain the parameters of the task.
    """

    tasks = "tasks"
    pooled = "pooled"
    revealed = "revealed"


class TaskFigure(enum.Enum):
    """Kind of figure that shows the tasks of a family.

    Attributes:
        images: labelled images of one or three channels.
        points: labelled points in the plane.
        curve: a number to predict, as a function of the first number of an input.
        fit: predicted numbers against the true ones.
        paths: episodes as paths in the plane.
        traces: episodes as a number over time.
        none: no figure.
    """

    images = "images"
    points = "points"
    curve = "curve"
    fit = "fit"
    paths = "paths"
    traces = "traces"
    none = "none"

    def queries(self, usual: int) -> int:
        """Return the query examples per class that are drawn: many for a curve, else the ``usual`` number."""
        return 300 if self is TaskFigure.curve else usual


class Episode(NamedTuple):
    """T tasks, or one task without the leading axis T.

    The examples of one class stand next to each other.

    Attributes:
        support_x: inputs: images [T, N*K, C, H, W], float in 0..1, points in the plane [T, N*K, 2], or regression
            inputs [T, K, 1]; of a user's own rows any shape.
        support_y: labels [T, N*K], int64 in 0..N-1, or regression targets [T, K, 1]; [T, K, D] for D numbers.
        query_x: like ``support_x``, with Q in place of K.
        query_y: like ``support_y``, with Q in place of K.
        key: [T] int64, a random stream for each task (rng.py), from which the order of mini-batches is drawn.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    key: Tensor
