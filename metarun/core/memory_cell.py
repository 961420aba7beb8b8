"""A recurrent cell with an external memory, as pure functions: an LSTM that reads and writes slots.

Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, "Meta-learning with memory-augmented neural networks",
section 3. Beside the legend of episode.py: U units of the LSTM, M heads, L slots of D numbers each. The LSTM is
written with plain products because torch cannot vmap its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from metarun.core.problem import Metrics
from metarun.core.tree import Params

USAGE_DECAY = 0.95  # gamma of the usage weights, as in the published reimplementations


class State(NamedTuple):
    """What is left of the examples so far, for one task."""

    label: Tensor  # [N] the latest label, one-hot: the cell sees it with the next example, one step late
    features: Tensor  # [U + M*D] what the LSTM and the heads gave out; the classifier's input, and the LSTM's next one
    cell: Tensor  # [U] the LSTM's own memory
    memory: Tensor  # [L, D]
    read: Tensor  # [M, L] where the heads read
    usage: Tensor  # [L] how much each slot was read and written lately


def blank(params: Params, slots: int) -> State:
    """The state before the first example: nothing seen, nothing stored."""
    way, features = params["head.weight"].shape
    units = params["recurrent.weight"].shape[0] // 4
    heads = params["access.weight"].shape[0] - 2 * (features - units) if "access.weight" in params else 0
    zeros = params["head.weight"].new_zeros
    memory = zeros(slots, (features - units) // max(heads, 1))
    return State(zeros(way), zeros(features), zeros(units), memory, zeros(heads, slots), zeros(slots))


def project(params: Params, x: Tensor) -> Tensor:
    """What examples [B, ...] add to the LSTM's gates, [B, 4U]: the part of a step that no state enters."""
    return F.linear(x.flatten(1), params["input.weight"], params["input.bias"])


def step(params: Params, state: State, drive: Tensor, nudge: Tensor | float = 0.0) -> State:
    """The state after an example's ``drive`` [4U], or after each of B, [B, 4U], as the next one; its ``label`` is still
    the one before. ``nudge`` is added to what the heads are told; its derivative is what it is for.

    The paper writes the key that it reads with; here the heads write a vector of their own, as in the
    reimplementations that meet the published accuracies. Slots of equal usage are used in their order.
    """
    told = drive + F.linear(torch.cat([state.label, state.features]), params["recurrent.weight"])
    write_in, keep, give, new = told.chunk(4, -1)
    cell = keep.sigmoid() * state.cell + write_in.sigmoid() * new.tanh()
    hidden = give.sigmoid() * cell.tanh()
    if "access.weight" not in params:
        return state._replace(features=hidden, cell=cell)
    (heads, slots), width = state.read.shape, state.memory.shape[1]
    access = F.linear(hidden, params["access.weight"], params["access.bias"]) + nudge
    keys, added, gate = access.split([heads * width, heads * width, heads], -1)
    keys, added = (v.tanh().unflatten(-1, (heads, width)) for v in (keys, added))  # [..., M, D]
    gate = gate.sigmoid()[..., None]  # [..., M, 1]
    order = state.usage.argsort(stable=True)
    least = (order[:heads, None] == torch.arange(slots, device=drive.device)).to(drive)  # [M, L] one-hot, a slot a head
    write = gate * state.read + (1 - gate) * least  # [..., M, L]
    memory = (1 - least[0])[:, None] * state.memory + write.mT @ added  # [..., L, D]
    read = (_unit(keys) @ _unit(memory).mT).softmax(-1)
    usage = USAGE_DECAY * state.usage + (read + write).sum(-2)
    features = torch.cat([hidden, (read @ memory).flatten(-2)], -1)
    return State(state.label, features, cell, memory, read, usage)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors [..., D] at length 1, so that products are cosines; 0 stays 0, with a derivative."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-8)


def follow(
    params: Params, state: State, drive: Tensor, labels: Tensor, nudges: Iterable[Tensor | float] = repeat(0.0)
) -> list[State]:
    """The states after each of S examples, drive [S, 4U] and labels [S, N]. Each holds its example's label, which its
    features do not know."""
    states = []
    for now, label, nudge in zip(drive.unbind(), labels.unbind(), nudges, strict=False):
        state = step(params, state, now, nudge)._replace(label=label)
        states.append(state)
    return states


def classify(params: Params, features: Tensor) -> Tensor:
    """Logits [..., N] from features [..., U + M*D]."""
    return F.linear(features, params["head.weight"], params["head.bias"])


def gradient(
    params: Params, state: State, x: Tensor, labels: Tensor, loss: Callable[[Tensor], tuple[Tensor, Metrics]]
) -> tuple[Params, Metrics]:
    """The gradient of ``loss`` (logits [S, N] -> scalar, metrics) over a sequence in the parameters, and the metrics.

    Every step uses the same weights, so their gradient is a sum over steps of slope times input. Left to autograd it
    is added up one step at a time, in memory as large as the weights for each task. Here the slopes of all steps are
    found first, as derivatives in what is added there, and the sum is one product: two to three times as fast.
    """

    def run(head: Params, drive: Tensor, nudges: Tensor) -> tuple[Tensor, tuple[Tensor, Metrics]]:
        features = torch.stack([s.features for s in follow(params, state, drive, labels, nudges.unbind())])
        value, metrics = loss(classify(head, features))
        return value, (features, metrics)

    head = {name: params[name] for name in ("head.weight", "head.bias")}
    drive = project(params, x)
    nudges = drive.new_zeros(len(x), params["access.bias"].shape[0] if "access.bias" in params else 0)
    (grads, gates, told), (features, metrics) = grad(run, argnums=(0, 1, 2), has_aux=True)(head, drive, nudges)
    before = torch.cat([torch.stack([state.label, *labels[:-1]]), torch.stack([state.features, *features[:-1]])], -1)
    grads |= {
        "input.weight": gates.mT @ x.flatten(1),
        "input.bias": gates.sum(0),
        "recurrent.weight": gates.mT @ before,
    }
    if "access.weight" in params:
        hidden = features[:, : drive.shape[1] // 4]
        grads |= {"access.weight": told.mT @ hidden, "access.bias": told.sum(0)}
    return {name: grads[name] for name in params}, metrics
