"""Figure of test tasks in which numbers are predicted: predicted against true values."""

from __future__ import annotations

import textwrap

import torch
from matplotlib.figure import Figure

from metarun.core.episode import Episode

BEFORE, AFTER = "#b8860b", "#1f4e79"
LINE, LONGEST = 34, 80  # characters beside a panel, and of the name of a number in all


def fit(episodes: Episode, outputs: torch.Tensor, names: list[list[str]] | None = None) -> Figure:
    """Draw predicted against true values of the queries, before and after adapting.

    A column is a task, and a row is one of the numbers to predict, at most four. The panels of a row have equal axes,
    which reach a little beyond the true values; predictions beyond them are drawn on the edge.

    Args:
        episodes: T tasks with targets [D].
        outputs: [T, S+1, Q, D] of the network, for the query sets.
        names: [T][1 + D], names of the task and of the numbers; None: they are numbered.
    """
    tasks, rows = len(episodes.key), min(4, outputs.shape[-1])
    figure = Figure(figsize=(3.0 * tasks, 2.9 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, tasks, squeeze=False)
    for row in range(rows):
        true = episodes.query_y[..., row].cpu()
        margin = 0.3 * ((true.max() - true.min()) or torch.tensor(1.0))
        low, high = float(true.min() - margin), float(true.max() + margin)
        for t, axes in enumerate(grid[row]):
            axes.plot([low, high], [low, high], color="0.6", lw=1)
            for at, colour, label in ((0, BEFORE, "before adapting"), (-1, AFTER, "after adapting")):
                guess = outputs[t, at, :, row].cpu()
                guess = guess.nan_to_num(high, high, low).clamp(low, high)
                axes.scatter(true[t], guess, s=18, color=colour, alpha=0.8, label=label, linewidths=0)
            if not outputs[t, -1].isfinite().all():
                axes.text(0.5, 0.03, "diverged", color="#c62828", fontsize=8, ha="center", transform=axes.transAxes)
            axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axes.tick_params(labelsize=7)
            number = names[t][1 + row] if names else f"number {row}"
            axes.set_xlabel("true", fontsize=8)
            if t == 0:
                said = textwrap.wrap(f"{_printable(number, LONGEST)}, predicted", LINE)
                axes.set_ylabel("\n".join(said), fontsize=8, parse_math=False)
            if row == 0:
                axes.set_title(_printable(names[t][0]) if names else f"task {t}", fontsize=8, parse_math=False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _printable(name: str, most: int = 24) -> str:
    short = name if len(name) <= most else f"{name[: most - 1]}…"
    return "".join(c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else "?" for c in short)
