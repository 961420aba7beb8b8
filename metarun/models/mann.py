"""An LSTM with or without an external memory, which predicts the label of an example from the examples before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from metarun.core import memory_cell
from metarun.core.tree import Params
from metarun.errors import require_count
from metarun.models.base import Init, Model


@dataclass(kw_only=True, slots=True)
class MemoryAugmented(Model):
    """The network of Santoro et al. 2016 (memory_cell.py). Its state holds earlier examples; ``algo=mann`` keeps it.

    Attributes:
        units: units of the LSTM.
        heads: heads that read the memory, and as many that write; 0: no memory.
        width: numbers in a memory slot.
        init: initialisation of all layers.
    """

    units: int
    heads: int
    width: int
    init: Init

    def __post_init__(self) -> None:
        for name, least in {"units": 1, "heads": 0, "width": 1}.items():
            require_count(name, getattr(self, name), least, most=10**5)

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Network(self, math.prod(input_shape), outputs)


class Network(nn.Module):
    """[B, ...] -> [B, outputs]: each of the B examples as the next one after the state in the buffers ``state.*``.

    The buffers contain the state before the first example; a caller replaces them by another state.
    """

    def __init__(self, cell: MemoryAugmented, inputs: int, outputs: int):
        super().__init__()
        features = cell.units + cell.heads * cell.width
        self.input = nn.Linear(inputs, 4 * cell.units)
        self.recurrent = nn.Linear(outputs + features, 4 * cell.units, bias=False)
        if cell.heads:
            self.access = nn.Linear(cell.units, cell.heads * (2 * cell.width + 1))  # read key, vector to write, gate
        self.head = nn.Linear(features, outputs)
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            cell.init.apply(layer)
        self.state = nn.Module()
        for name, value in memory_cell.blank(dict(self.named_parameters()), slots=max(1, cell.heads))._asdict().items():
            self.state.register_buffer(name, value.detach())

    def forward(self, x: Tensor) -> Tensor:
        params: Params = {name: value for name, value in self.named_parameters()}
        state = memory_cell.State(**dict(self.state.named_buffers()))
        return memory_cell.classify(params, memory_cell.step(params, state, memory_cell.project(params, x)).features)
