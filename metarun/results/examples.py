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
    x = images[: COLUMNS * ROWS].detach().cpu().float()
    low, high = float(x.min()), float(x.max())
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    x = (x - low) / ((high - low) or 1)
    x = 1 - x if ink else x
    columns = min(COLUMNS, len(x))
    rows = -(-len(x) // columns)
    tiles = torch.ones(rows * columns, *x.shape[1:])
    tiles[: len(x)] = x
    tiles = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=0.7)
    channels, height, width = tiles.shape[1:]
    whole = tiles.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    figure = Figure(figsize=(0.6 * columns, 0.6 * columns * rows * height / (columns * width)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(whole.reshape(rows * height, columns * width, channels).squeeze(-1), cmap="gray", vmin=0, vmax=1)
    axes.axis("off")
    return figure
