"""A user's rows in use (``dataset=table``, ``arrays``): what a run learned of its own, and a network for rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metarun.datasets.scaling import Scaling, scaled
from metarun.runs.record import Record


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a run learned of its rows, which other rows need to be used with it.

    Attributes:
        shape: shape of an example.
        inputs: names of the inputs; none where the data are arrays.
        targets: names of the numbers to predict; none where classes are predicted.
        classes: the classes in the order of their labels, where all tasks have the same; else none.
        x: mean and deviation of the inputs; None: they are taken as they are.
        y: the same of the numbers to predict.
    """

    shape: tuple[int, ...]
    inputs: list[str]
    targets: list[str]
    classes: list[str]
    x: Scaling | None
    y: Scaling | None

    @staticmethod
    def of(record: Record) -> Learned | None:
        """Return what a run's record states; None where its data are no rows."""
        learned = (record.data or {}).get("learned") or {}
        if "shape" not in learned:
            return None
        x, y = (Scaling.read(learned[key]) if learned.get(key) else None for key in ("x", "y"))
        return Learned(
            shape=tuple(learned["shape"]),
            inputs=learned["inputs"],
            targets=learned["targets"],
            classes=learned["classes"],
            x=x,
            y=y,
        )

    def inside(self, values: Tensor, of: Scaling | None, axes: int) -> Tensor:
        """Prepare numbers for the network, float32, as the run prepared its own.

        Args:
            values: [..., *axes] numbers of any type.
            of: ``x`` or ``y``.
            axes: axes of one example.
        """
        flat = values.reshape(-1, *values.shape[values.ndim - axes :]).numpy()
        return torch.from_numpy(scaled(flat, of)).reshape(values.shape)

    def outside(self, outputs: Tensor) -> Tensor:
        """Return the network's numbers [..., D] in the units of the user's data, float64 where they were scaled."""
        if self.y is None:
            return outputs
        mean, deviation = (torch.from_numpy(of).to(outputs.device) for of in (self.y.mean, self.y.deviation))
        return outputs.double() * deviation + mean

    def around(self, network: nn.Module) -> nn.Module:
        """Return a network that takes rows as they are, and returns numbers in their own units."""
        return network if self.x is None and self.y is None else OfRows(network, self.x, self.y).eval()

    def raw(self, x: Tensor) -> Tensor:
        """Return prepared inputs [B, ...] as rows that the network of ``around`` takes."""
        return x if self.x is None else x.double() * torch.from_numpy(self.x.deviation) + torch.from_numpy(self.x.mean)


class OfRows(nn.Module):
    """A network between rows as they are, float64 or float32, and numbers in their own units, float64.

    Args:
        network: the network.
        x: mean and deviation of the inputs; None: they are taken as they are.
        y: the same of the outputs.
    """

    x_mean: Tensor
    x_deviation: Tensor
    y_mean: Tensor
    y_deviation: Tensor

    def __init__(self, network: nn.Module, x: Scaling | None, y: Scaling | None):
        super().__init__()
        self.network, self.has_x, self.has_y = network, x is not None, y is not None
        like = next(network.parameters())
        for name, of in (("x", x), ("y", y)):
            for part in ("mean", "deviation") if of else ():
                self.register_buffer(f"{name}_{part}", torch.from_numpy(np.array(getattr(of, part))).to(like.device))

    def forward(self, x: Tensor) -> Tensor:
        if self.has_x:
            x = ((x.double() - self.x_mean) / self.x_deviation).float()
        x = self.network(x)
        return x.double() * self.y_deviation + self.y_mean if self.has_y else x
