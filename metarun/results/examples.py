"""A picture of what a run trains on: images of its first meta-training tasks side by side."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

COLUMNS, ROWS = 12, 5


def mosaic(images: Tensor, ink: bool) -> Figure:
    """Draw images without gaps but a thin line, as many as there is room for.

    Args:
        images: [B, C, H, W] of one or three channels.
        ink: whether a channel is the amount of ink, drawn dark on white; otherwise it is light, as in a photograph.
    """
    x = images[: COLUMNS * ROWS]
    columns = min(COLUMNS, len(x))
    rows = -(-len(x) // columns)
    height, width = x.shape[-2:]
    figure = Figure(figsize=(0.6 * columns, 0.6 * columns * rows * height / (columns * width)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(tiled([x[row : row + columns] for row in range(0, len(x), columns)], ink), cmap="gray", vmin=0, vmax=1)
    axes.axis("off")
    return figure


def tiled(rows: list[Tensor], ink: bool) -> Tensor:
    """Put images side by side, one row below another, with a thin line around each.

    Args:
        rows: images of each row, [B, C, H, W] of one or three channels; rows may differ in B.
        ink: as for ``mosaic``.

    Returns:
        Values 0..1 to be shown, [height, width] or [height, width, 3]; white where a row has no more images.
    """
    x = torch.cat(rows).detach().cpu().float()
    low, high = float(x.min()), float(x.max())
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    x = (x - low) / ((high - low) or 1)
    x = torch.nn.functional.pad(1 - x if ink else x, (1, 1, 1, 1), value=0.7)
    columns = max(map(len, rows))
    tiles = torch.ones(len(rows), columns, *x.shape[1:])
    for row, some in zip(tiles, x.split([len(of) for of in rows]), strict=True):
        row[: len(some)] = some
    channels, height, width = x.shape[1:]
    whole = tiles.permute(0, 3, 1, 4, 2)  # [rows, H, columns, W, C]
    return whole.reshape(len(rows) * height, columns * width, channels).squeeze(-1)
