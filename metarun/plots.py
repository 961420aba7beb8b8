"""Plots of one run, as PNG files beside its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metarun.episode import Episode

INK, SOFT, GOOD, BAD = "#1f4e79", "#b8860b", "#2e7d32", "#c62828"


def draw_all(
    out: Path, result: dict[str, Any], lines: list[dict[str, Any]], episodes: Episode, outputs: Tensor
) -> None:
    """Write curves.png, steps.png and episodes.png (points.png in the plane, sinusoid.png for regression) into ``out``.

    lines: the run's log. episodes: a few test tasks. outputs: [T, S+1, N*Q, outputs] for their query sets.
    """
    if lines:
        save(curves(result, lines), out / "curves.png")
    save(steps(result), out / "steps.png")
    if result["metric"] == "mse":
        save(regression(episodes, outputs), out / "sinusoid.png")
    elif episodes.query_x.shape[2:] == (2,):
        save(points(episodes, outputs), out / "points.png")
    else:
        save(predictions(episodes, outputs), out / "episodes.png")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _scale(result: dict[str, Any]) -> tuple[float, str]:
    """Factor and axis label: accuracies are drawn in percent."""
    return (100.0, "accuracy, %") if result["metric"] == "accuracy" else (1.0, "mean squared error")


def curves(result: dict[str, Any], lines: list[dict[str, Any]]) -> Figure:
    """Training and validation metric and training loss against meta-iterations; band: 95 % interval over tasks."""
    factor, label = _scale(result)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    training = [line for line in lines if line["split"] == "train"]
    validation = [line for line in lines if line["split"] == "val"]
    steps = [line["step"] for line in training]
    left.plot(steps, [factor * line[result["metric"]] for line in training], color=SOFT, lw=1, label="meta-train")
    if validation:
        at = [line["step"] for line in validation]
        mean = np.array([factor * line[result["metric"]] for line in validation])
        half = np.array([factor * line["ci95"] for line in validation])
        left.fill_between(at, mean - half, mean + half, color=INK, alpha=0.2, lw=0)
        left.plot(
            at,
            mean,
            color=INK,
            marker="." if len(at) < 40 else None,
            label=f"validation, {validation[0]['tasks']} tasks",
        )
    left.axvline(result["selected"]["step"], color="0.6", lw=0.8, ls=":", label="tested")
    left.set(xlabel="meta-iteration", ylabel=label)
    left.legend(fontsize=8)
    right.plot(steps, [line["loss"] for line in training], color=SOFT, lw=1)
    right.set(xlabel="meta-iteration", ylabel="meta-training loss", yscale="log")
    figure.suptitle(_title(result), fontsize=10)
    return figure


def steps(result: dict[str, Any]) -> Figure:
    """Test metric against inner steps, one line for each norm; bars: 95 % interval over tasks."""
    factor, label = _scale(result)
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    for score in result["scores"]:
        rows = score["by_steps"]
        axes.errorbar(
            [row["steps"] for row in rows],
            [factor * row["mean"] for row in rows],
            [factor * row["ci95"] for row in rows],
            marker="o" if len(rows) < 20 else None,
            ms=4,
            capsize=3,
            lw=1.2,
            label=score["norm"],
        )
    axes.set(xlabel="inner steps at test", ylabel=f"meta-test {label}")
    if len(rows) < 20:
        axes.set_xticks([row["steps"] for row in rows])
    axes.legend(title=f"norm, {score['tasks']} tasks", fontsize=8, title_fontsize=8)
    axes.set_title(_title(result), fontsize=9)
    return figure


def comparison(lines: list[dict[str, Any]]) -> Figure:
    """Methods on the same tasks, a panel for each kind of task: test metric against inner steps.

    lines: as ``report.by_steps`` makes them. Bars: 95 % interval over tasks.
    """
    panels = list(dict.fromkeys(line["panel"] for line in lines))
    figure = Figure(figsize=(6.4, 3.8 * len(panels)), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0], strict=True):
        shown = [line for line in lines if line["panel"] == panel]
        factor, label = _scale(shown[0])
        best_first = sorted(shown, key=lambda line: line["mean"][-1], reverse=shown[0]["metric"] == "accuracy")
        for i, line in enumerate(best_first):
            axes.errorbar(
                line["steps"],
                [factor * mean for mean in line["mean"]],
                [factor * half for half in line["ci95"]],
                color=f"C{i % 10}",
                ls="-" if i < 10 else "--",
                marker="o",
                ms=3,
                capsize=2,
                lw=1.2,
                label=line["label"],
            )
        axes.set(xlabel="inner steps at test", ylabel=f"meta-test {label}")
        if shown[0]["metric"] == "mse":
            axes.set_yscale("log")
        if max(line["steps"][-1] for line in shown) > 15:
            axes.set_xscale("symlog", linthresh=5)
        axes.set_title(panel, fontsize=8)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def step_sizes(rates: dict[str, np.ndarray]) -> Figure:
    """Meta-learned step sizes by parameter tensor: one for each inner step as a line, else quantiles over its entries.

    rates: parameter name -> step sizes, [S] or shaped like the parameter.
    """
    names = list(rates)
    in_steps = all(values.ndim == 1 and len(values) == len(rates[names[0]]) for values in rates.values())
    figure = Figure(figsize=(7, 1.2 + (2.6 if in_steps else 0.24 * len(names))), layout="constrained")
    axes = figure.subplots()
    if in_steps:
        for i, name in enumerate(names):
            steps = range(1, len(rates[name]) + 1)
            axes.plot(steps, rates[name], color=f"C{i % 10}", ls="-" if i < 10 else "--", marker=".", label=name)
        axes.set(xlabel="inner step", ylabel="step size", xticks=list(steps))
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        for row, name in enumerate(names):
            low, lower, middle, upper, high = np.quantile(rates[name], [0.025, 0.25, 0.5, 0.75, 0.975])
            axes.plot([low, high], [row, row], color=INK, lw=1)
            axes.plot([lower, upper], [row, row], color=INK, lw=4, solid_capstyle="butt")
            axes.plot(middle, row, ".", color=SOFT)
        axes.set(xlabel="step size: median, middle half, middle 95 % of entries", yticks=range(len(names)))
        axes.set_yticklabels(names, fontsize=7)
        axes.invert_yaxis()
    axes.axhline(0, color="0.7", lw=0.8) if in_steps else axes.axvline(0, color="0.7", lw=0.8)
    return figure


def _title(result: dict[str, Any]) -> str:
    names = result["names"]
    return f"{names['algo']} on {names['dataset']}, {result['protocol']['task']}, seed {result['seed']}"


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


def reproduction(rows: list[dict[str, Any]]) -> Figure:
    """Ours beside the published numbers, a line for each; bars: our 95 % interval over tasks, and the published ±.

    rows: as ``verdicts.Row``. Hollow: trained for less than the published length.
    """
    metrics = [metric for metric in ("accuracy", "mse") if any(row["metric"] == metric for row in rows)]
    panels = {metric: [row for row in rows if row["metric"] == metric] for metric in metrics}
    heights = [len(panel) + 1.5 for panel in panels.values()] or [2]
    figure = Figure(figsize=(8, 0.32 * sum(heights) + 0.6), layout="constrained")
    figure.suptitle(
        "squares: published; circles: ours (green: reproduced, red: below, blue: other, hollow: partial budget)",
        fontsize=8,
    )
    places = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (metric, panel) in zip(places, panels.items(), strict=False):
        factor, label = _scale({"metric": metric})
        for y, row in enumerate(panel):
            published = None if np.isnan(row["published_ci"]) else factor * row["published_ci"]
            axes.errorbar(factor * row["published"], y - 0.15, xerr=published, fmt="s", ms=4, capsize=2, color=SOFT)
            colour = {"reproduced": GOOD, "below": BAD}.get(row["verdict"], INK)
            fill = "none" if row["verdict"] == "partial budget" else colour
            mean, half = factor * row["mean"], factor * row["ci95"]
            axes.errorbar(mean, y + 0.15, xerr=half, fmt="o", ms=4, capsize=2, color=colour, mfc=fill)
        names = [f"{row['cell'].split('/')[1]}, {row['norm']}, inner steps {row['steps']}" for row in panel]
        axes.set_yticks(range(len(panel)), names, fontsize=8)
        axes.set_xlabel(label)
        axes.set_ylim(len(panel) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
    return figure
