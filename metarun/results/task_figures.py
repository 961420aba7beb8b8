"""Figures of a few test tasks: support set, query set and predictions for it."""

from __future__ import annotations

import textwrap

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation
from torch import Tensor

from metarun.core.episode import Episode, TaskFigure
from metarun.core.watching import Watched
from metarun.results.fit_figure import fit

INK, SOFT, GOOD, BAD = "#1f4e79", "#b8860b", "#2e7d32", "#c62828"
CLASSES = [INK, SOFT, "#7b3f98", "#4a4a4a", "#00808b", "#d36ba6", "#8c5a3c", "#5b9bd5"]  # apart from green and red

Names = list[list[str]]  # [T][N], names of the classes of each task

NAMES = {
    TaskFigure.images: "episodes.png",
    TaskFigure.points: "points.png",
    TaskFigure.curve: "sinusoid.png",
    TaskFigure.fit: "fit.png",
    TaskFigure.paths: "paths.png",
    TaskFigure.traces: "traces.png",
}
EPISODES = 3  # of a task that acts, after each number of inner steps


def draw(kind: TaskFigure, episodes: Episode, outputs: Tensor, ink: bool, names: Names | None) -> Figure:
    """Draw test tasks in the way that suits their family.

    Args:
        kind: kind of figure, any but ``none``.
        episodes: T tasks.
        outputs: [T, S+1, N*Q, outputs] of the network, for the query sets.
        ink: as for ``images``.
        names: as for ``images``.
    """
    if kind is TaskFigure.images:
        return images(episodes, outputs, ink, names)
    if kind is TaskFigure.fit:
        return fit(episodes, outputs, names)
    return points(episodes, outputs) if kind is TaskFigure.points else regression(episodes, outputs)


def predicted(outputs: Tensor) -> Tensor:
    """Return labels [...] of outputs [..., N], or of the sign of outputs [..., 1]; -1 where an output is not finite."""
    label = outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs[..., 0] > 0).long()
    return torch.where(outputs.isfinite().all(-1), label, -1)


def images(
    episodes: Episode, outputs: Tensor | None, ink: bool = False, names: Names | None = None, most: int = 5
) -> Figure:
    """Draw tasks side by side: each row is a class, support images first, then queries framed green or red.

    A red frame is labelled with the predicted class.

    Args:
        episodes: T tasks.
        outputs: [T, S+1, N*Q, outputs] of the network, for the query sets; None: there is none, and frames are grey.
        ink: whether a channel is the amount of ink, drawn dark on white; otherwise it is light, as in a photograph.
        names: names of the classes; None: they are numbered.
        most: classes of a task that are drawn.
    """
    labels = [int(label) for label in episodes.query_y.unique()][:most]
    each = [int((y[0] == labels[0]).sum()) for y in (episodes.support_y, episodes.query_y)]
    shot, query = min(each[0], 2), min(each[1], 5)
    tasks, wide = len(episodes.key), shot + query + 1
    guess = None if outputs is None else predicted(outputs[:, -1]).cpu()
    low, high = (float(f([x.min() for x in (episodes.support_x, episodes.query_x)])) for f in (min, max))
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    figure = Figure(figsize=(0.62 * tasks * wide, 0.66 * len(labels) + 0.5))
    grid = figure.subplots(len(labels), tasks * wide, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.axis("off")
    for t in range(tasks):
        for row, label in enumerate(labels):
            support = (episodes.support_y[t] == label).nonzero()[:shot, 0].tolist()
            queries = (episodes.query_y[t] == label).nonzero()[:query, 0].tolist()
            for column, at in enumerate(support):
                framed(grid[row, t * wide + column], episodes.support_x[t, at], low, high, ink, "0.7")
            for column, at in enumerate(queries, shot):
                axes = grid[row, t * wide + column]
                if guess is None:
                    framed(axes, episodes.query_x[t, at], low, high, ink, "0.7")
                    continue
                right = int(guess[t, at]) == label
                framed(axes, episodes.query_x[t, at], low, high, ink, GOOD if right else BAD, 2.5)
                if not right:
                    wrong = "none" if guess[t, at] < 0 else str(int(guess[t, at]))
                    said = axes.text(0.91, 0.1, wrong, color=BAD, fontsize=8, ha="right", transform=axes.transAxes)
                    said.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
                    said.set_zorder(2.4)  # above the image, below the frame
            called = short_name(f"{label}: {names[t][label]}") if names else str(label)
            size = 8 if len(called) < 8 else 5
            grid[row, t * wide].set_ylabel(called, fontsize=size, rotation=0, va="center", ha="right", parse_math=False)
        grid[0, t * wide].set_title("support", fontsize=7)
        grid[0, t * wide + shot].set_title("query", fontsize=7)
    return figure


def framed(axes: Axes, x: Tensor, low: float, high: float, ink: bool, frame: str, width: float = 1) -> None:
    """Draw one image [C, H, W] with values low..high, in a frame."""
    axes.axis("on")
    scaled = ((x.detach().cpu() - low) / (high - low or 1)).permute(1, 2, 0).squeeze(-1)
    axes.imshow(scaled, cmap="gray_r" if ink else "gray", vmin=0, vmax=1)
    for spine in axes.spines.values():
        spine.set(color=frame, linewidth=width)


def short_name(name: str) -> str:
    """Break a name into at most three lines that fit between two tasks."""
    printable = "".join(c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else "?" for c in name)
    lines = textwrap.wrap(printable, 11)
    return "\n".join([*lines[:2], lines[2] if len(lines) == 3 else f"{lines[2][:10]}…"] if len(lines) > 2 else lines)


def points(episodes: Episode, outputs: Tensor) -> Figure:
    """Draw classes of points before and after adapting: K support points each, queries ringed green or red.

    Borders between the classes are drawn as far as the queries reach.

    Args:
        episodes: T tasks with inputs [2].
        outputs: [T, S+1, N*Q, N], or [T, S+1, 2*Q, 1] for two classes that the sign of one output separates.
    """
    tasks, way = len(episodes.key), int(episodes.query_y.max()) + 1
    colours = CLASSES if way <= len(CLASSES) else [colormaps["turbo"](c / (way - 1)) for c in range(way)]
    figure = Figure(figsize=(3.2 * tasks, 6.4), layout="constrained")
    grid = figure.subplots(2, tasks, squeeze=False)
    for t in range(tasks):
        support_x, support_y, query_x, query_y = (field[t].cpu() for field in episodes[:4])
        everything = torch.cat([support_x, query_x])
        low, high = everything.amin(0), everything.amax(0)
        middle, reach = (low + high) / 2, 0.55 * (high - low).max().clamp(min=1e-6)
        limits = torch.stack([middle - reach, middle + reach], 1).tolist()  # [[left, right], [bottom, top]]
        for axes, at, when in ((grid[0, t], 0, "before adapting"), (grid[1, t], -1, "after adapting")):
            of_queries = outputs[t, at].cpu()
            right = predicted(of_queries) == query_y
            for label in range(way):
                of, colour = query_y == label, colours[label]
                rings = [GOOD if hit else BAD for hit in right[of]]
                axes.scatter(*query_x[of].T, s=40, color=colour, edgecolors=rings, linewidths=2)
                axes.scatter(*support_x[support_y == label].T, s=70, marker="^", color=colour, edgecolors="k")
            _borders(axes, query_x, of_queries)
            axes.set_title(f"{when}: {int(right.sum())} of {len(right)}", fontsize=8)
            axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
            axes.tick_params(labelsize=7)
    return figure


def _borders(axes: Axes, x: Tensor, outputs: Tensor) -> None:
    """Draw lines where the predicted class changes, between points x [B, 2] with outputs [B, N] or [B, 1].

    There a class's output equals the largest output of the others.
    """
    if not outputs.isfinite().all():
        return
    try:
        triangles = Triangulation(*x.T.numpy())
    except (ValueError, RuntimeError):  # fewer than three points, or all on a line
        return
    if outputs.shape[-1] == 1:
        margins = outputs
    else:
        of_others = [torch.cat([outputs[:, :c], outputs[:, c + 1 :]], 1).amax(1) for c in range(outputs.shape[-1])]
        margins = outputs - torch.stack(of_others, 1)
        margins = margins[:, 1:] if margins.shape[1] == 2 else margins  # of two classes the border is the same line
    for margin in margins.unbind(1):
        if margin.min() < 0 < margin.max():
            axes.tricontour(triangles, margin, levels=[0], colors="0.3", linewidths=1)


def regression(episodes: Episode, outputs: Tensor) -> Figure:
    """Draw the true function, the K support points, and the fit before and after 1 and S inner steps.

    The horizontal axis is the first number of an input; an oracle's inputs have more. A fit far outside of the true
    functions is cut off, and one that is not finite is labelled.

    Args:
        episodes: T tasks with inputs [1] or more, and labels [1].
        outputs: [T, S+1, Q, 1] of the network, for the query sets.

    Source:
        Finn, Abbeel and Levine 2017, MAML, figure 2.
    """
    tasks, last = len(episodes.key), outputs.shape[1] - 1
    figure = Figure(figsize=(3.6 * tasks, 3.0), layout="constrained")
    panels = figure.subplots(1, tasks, squeeze=False, sharey=True)[0]
    low, high = float(episodes.query_y.min()), float(episodes.query_y.max())
    room = (high - low) or 1.0
    kept = outputs[outputs.isfinite()].cpu()
    bottom, top = (float(kept.min()), float(kept.max())) if len(kept) else (low, high)
    margin = 0.05 * room
    for t, axes in enumerate(panels):
        x, order = episodes.query_x[t, :, 0].cpu().sort()
        axes.plot(x, episodes.query_y[t, :, 0].cpu()[order], color=BAD, lw=1.5, label="true function")
        for at, style in zip(sorted({0, min(1, last), last}), (":", "--", "-"), strict=False):
            axes.plot(x, outputs[t, at, :, 0].cpu()[order], color=INK, ls=style, lw=1.2, label=_after(at))
        if not outputs[t, -1].isfinite().all():
            axes.text(0.5, 0.03, "diverged", color=BAD, fontsize=8, ha="center", transform=axes.transAxes)
        support_x, support_y = episodes.support_x[t, :, 0].cpu(), episodes.support_y[t, :, 0].cpu()
        axes.plot(support_x, support_y, "^", color=SOFT, label="K points")
        axes.set_xlabel("x")
    panels[0].set_ylim(max(min(bottom, low), low - room) - margin, min(max(top, high), high + room) + margin)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    return figure


def episodes(kind: TaskFigure, watched: list[Watched]) -> Figure | None:
    """Draw the episodes of test tasks in which policies act.

    Args:
        kind: paths or traces.
        watched: the episodes after 0, 1, ... inner steps.

    Returns:
        The figure; None if there is nothing to show.
    """
    if not watched:
        return None
    return paths(watched) if kind is TaskFigure.paths else traces(watched)


def paths(watched: list[Watched]) -> Figure:
    """Draw episodes in the plane, a row for each task and a column for a number of inner steps.

    Args:
        watched: places [T, M, H+1, 2] after 0, 1, ... inner steps.

    Source: figure 4 of the MAML paper (Finn et al. 2017).
    """
    tasks, columns = len(watched[0].gained), _columns(len(watched))
    figure = Figure(figsize=(2.4 * len(columns), 2.4 * tasks + 0.3), layout="constrained")
    grid = figure.subplots(tasks, len(columns), squeeze=False)
    for t in range(tasks):
        everything = torch.cat([watched[at].values[t].flatten(0, 1) for at in columns]).cpu()
        goals = [of.target[t][None].cpu() for of in watched[:1] if of.target is not None]
        everything = torch.cat([everything[everything.isfinite().all(-1)], *goals])
        low, high = (everything.double().quantile(q, 0) for q in (0.0, 1.0))
        middle, reach = (low + high) / 2, 0.55 * (high - low).max().clamp(min=1e-6)
        limits = torch.stack([middle - reach, middle + reach], 1).tolist()
        for axes, at in zip(grid[t], columns, strict=True):
            for path in watched[at].values[t].cpu():
                axes.plot(*path.T, color=INK, lw=0.6, alpha=0.5)
                axes.plot(*path[0], ".", color="k", ms=6)
            for goal in goals:
                axes.plot(*goal.T, "*", color=BAD, ms=12)
            axes.set_title(f"{_after(at)}: return {float(watched[at].gained[t]):.3g}", fontsize=8)
            axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
            axes.tick_params(labelsize=6)
    return figure


def traces(watched: list[Watched]) -> Figure:
    """Draw episodes as a number over time, before and after adapting, a panel for each task.

    Args:
        watched: numbers [T, M, H+1, 1] after 0, 1, ... inner steps; what the task asks for is a dashed line.
    """
    tasks = len(watched[0].gained)
    figure = Figure(figsize=(3.6 * tasks, 3.0), layout="constrained")
    panels = figure.subplots(1, tasks, squeeze=False, sharey=True)[0]
    for t, axes in enumerate(panels):
        for at, look in ((0, SOFT), (len(watched) - 1, INK)):
            for i, path in enumerate(watched[at].values[t, ..., 0].cpu()):
                axes.plot(path, color=look, lw=1, alpha=0.8, label=_after(at) if i == 0 else None)
        target = watched[0].target
        if target is not None:
            axes.axhline(float(target[t, 0]), color=BAD, ls="--", lw=1, label="target")
        gained = [float(of.gained[t]) for of in (watched[0], watched[-1])]
        axes.set_title(f"return {gained[0]:.3g} before, {gained[1]:.3g} after", fontsize=8)
        axes.set(xlabel="step of the environment")
    panels[0].set_ylabel(watched[0].words)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _columns(watched: int) -> list[int]:
    """Choose which numbers of inner steps to show, of 0..watched-1: the first four and the last."""
    return sorted({*range(min(4, watched)), watched - 1})


def _after(steps: int) -> str:
    return "before adapting" if steps == 0 else f"after {steps} step{'s' if steps > 1 else ''}"
