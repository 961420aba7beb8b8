"""Episode: a batch of few-shot tasks, and the shape legend that every file uses.

Shape legend
    T  tasks in a meta-batch (or in a chunk of one)
    N  way: classes in a task
    K  shot: support examples per class
    Q  query examples per class
    S  inner steps
    C, H, W  channels, height and width of an image

Code that handles one task never sees the axis T; ``over_tasks.py`` is the one place that adds it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from torch import Tensor


class View(enum.Enum):
    """What a method is shown of the meta-training data.

    tasks: few-shot tasks, as at test. pooled: mini-batches of all meta-training classes at once, labelled with their
    class numbers, as in ordinary supervised learning. revealed: tasks whose inputs say which task it is.
    """

    tasks = "tasks"
    pooled = "pooled"
    revealed = "revealed"


class TaskFigure(enum.Enum):
    """What a family's tasks can be seen in.

    images: of one or three channels, labelled. points: in the plane, labelled. curve: a number to be met at each place
    of a line, with which an input begins. none: nothing is drawn.
    """

    images = "images"
    points = "points"
    curve = "curve"
    none = "none"

    def queries(self, usual: int) -> int:
        """Query examples that it is drawn from, per class; a curve wants many, however many ``usual`` tasks have."""
        return 300 if self is TaskFigure.curve else usual


class Episode(NamedTuple):
    """T tasks, or one task when the leading axis T is absent.

    Classification inputs are [T, N*K, C, H, W] (support) and [T, N*Q, C, H, W] (query), float in 0..1; labels
    are int64 in 0..N-1. Examples of one class stand next to each other. Points in the plane are [T, N*K, 2] and
    [T, N*Q, 2] instead. Regression inputs and targets are [T, K, 1] and [T, Q, 1].
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    key: Tensor  # [T] int64: this task's own random stream (see rng.py), for mini-batch orders
