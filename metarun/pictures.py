"""Pictures of a few test tasks: support set, query set and what was predicted for it."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from metarun.episode import Episode

INK, SOFT, GOOD, BAD = "#1f4e79", "#b8860b", "#2e7d32", "#c62828"


def predictions(episodes: Episode, outputs: Tensor, rows: int = 4) -> Figure:
    """Test tasks side by side: each row a class, its support images, then queries framed green or red.

    A red frame is labelled with the class that was predicted.
    """
    tasks, way = len(episodes.key), outputs.shape[-1]
    shown = min(way, 5)
    shot, query = (min(x.shape[1] // way, limit) for x, limit in ((episodes.support_x, 2), (episodes.query_x, 5)))
    predicted = outputs[:, -1].argmax(-1).cpu()
    figure = Figure(figsize=(0.62 * tasks * (shot + query + 1), 0.66 * shown + 0.5))
    grid = figure.subplots(shown, tasks * (shot + query + 1), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.axis("off")
    for t in range(tasks):
        first = t * (shot + query + 1)
        for label in range(shown):
            for column in range(shot + query):
                support = column < shot
                of = episodes.support_x[t] if support else episodes.query_x[t]
                at = label * (len(of) // way) + (column if support else column - shot)
                axes = grid[label, first + column]
                axes.axis("on")
                axes.imshow(
                    of[at].permute(1, 2, 0).squeeze(-1).cpu(),
                    cmap="gray_r" if of.shape[1] == 1 else None,
                    vmin=0,
                    vmax=1,
                )
                right = support or int(predicted[t, at]) == label
                colour = "0.7" if support else GOOD if right else BAD
                for spine in axes.spines.values():
                    spine.set(color=colour, linewidth=1 if support else 2.5)
                if not right:
                    axes.text(
                        0.96,
                        0.04,
                        str(int(predicted[t, at])),
                        color=BAD,
                        fontsize=8,
                        ha="right",
                        transform=axes.transAxes,
                    )
                if column == 0:
                    axes.set_ylabel(str(label), rotation=0, labelpad=8, va="center", fontsize=8)
        grid[0, first].set_title("support", fontsize=7)
        grid[0, first + shot].set_title("query", fontsize=7)
    return figure


def points(episodes: Episode, outputs: Tensor) -> Figure:
    """Two classes in the plane, before and after adapting: K support points each, queries ringed green or red.

    outputs: [T, S+1, 2*Q, 1]. The line between the classes is drawn as far as the queries reach, where it is known.
    """
    tasks = len(episodes.key)
    figure = Figure(figsize=(3.2 * tasks, 6.4), layout="constrained")
    grid = figure.subplots(2, tasks, squeeze=False)
    for t in range(tasks):
        support_x, support_y, query_x, query_y = (field[t].cpu() for field in episodes[:4])
        everything = torch.cat([support_x, query_x])
        low, high = everything.amin(0), everything.amax(0)
        middle, reach = (low + high) / 2, 0.55 * (high - low).max()
        limits = torch.stack([middle - reach, middle + reach], 1).tolist()  # [[left, right], [bottom, top]]
        for axes, at, when in ((grid[0, t], 0, "before adapting"), (grid[1, t], -1, "after adapting")):
            logit = outputs[t, at, :, 0].cpu()
            right = (logit > 0) == (query_y == 1)
            for label, colour in ((0, INK), (1, SOFT)):
                of = query_y == label
                rings = [GOOD if hit else BAD for hit in right[of]]
                axes.scatter(*query_x[of].T, s=40, color=colour, edgecolors=rings, linewidths=2)
                axes.scatter(*support_x[support_y == label].T, s=70, marker="^", color=colour, edgecolors="k")
            if len(logit) > 2 and logit.min() < 0 < logit.max():
                axes.tricontour(*query_x.T, logit, levels=[0], colors="0.3", linewidths=1)
            axes.set_title(f"{when}: {int(right.sum())} of {len(right)}", fontsize=8)
            axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
            axes.tick_params(labelsize=7)
    return figure


def regression(episodes: Episode, outputs: Tensor) -> Figure:
    """The MAML paper's figure 2: true function, the K points, and the fit before and after 1 and S inner steps."""
    tasks, last = len(episodes.key), outputs.shape[1] - 1
    figure = Figure(figsize=(3.6 * tasks, 3.0), layout="constrained")
    panels = figure.subplots(1, tasks, squeeze=False, sharey=True)[0]
    for t, axes in enumerate(panels):
        x, order = episodes.query_x[t, :, 0].cpu().sort()
        axes.plot(x, episodes.query_y[t, :, 0].cpu()[order], color=BAD, lw=1.5, label="true function")
        for at, style in ((0, ":"), (1, "--"), (last, "-")):
            label = "before adapting" if at == 0 else f"after {at} step{'s' if at > 1 else ''}"
            axes.plot(x, outputs[t, at, :, 0].cpu()[order], color=INK, ls=style, lw=1.2, label=label)
        axes.plot(
            episodes.support_x[t, :, 0].cpu(), episodes.support_y[t, :, 0].cpu(), "^", color=SOFT, label="K points"
        )
        axes.set_xlabel("x")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    return figure
