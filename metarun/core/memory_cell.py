"""A recurrent cell with an external memory, as pure functions: an LSTM that reads and writes slots.

Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, "Meta-learning with memory-augmented neural networks",
section 3. Shapes, besides the legend in episode.py (S is the length of a sequence here): U units of the LSTM, M heads,
L memory slots of D numbers each. The LSTM is written with plain products because torch cannot vmap its own LSTM.
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
    """State of the cell after the examples so far, for one task.

    Attributes:
        label: [N] label of the latest example, one-hot; the cell gets it with the next example, one step late.
        features: [U + M*D] output of the LSTM and of the read heads: input of the classifier and of the next step.
        cell: [U] cell state of the LSTM.
        memory: [L, D] content of the slots.
        read: [M, L] read weights of the heads.
        usage: [L] how much each slot was read and written, recent steps counting most.
    """

    label: Tensor
    features: Tensor
    cell: Tensor
    memory: Tensor
    read: Tensor
    usage: Tensor


def blank(params: Params, slots: int) -> State:
    """Make the state before the first example: zeros, for a memory of ``slots`` slots."""
    way, features = params["head.weight"].shape
    units = params["recurrent.weight"].shape[0] // 4
    heads = params["access.weight"].shape[0] - 2 * (features - units) if "access.weight" in params else 0
    zeros = params["head.weight"].new_zeros
    memory = zeros(slots, (features - units) // max(heads, 1))
    return State(zeros(way), zeros(features), zeros(units), memory, zeros(heads, slots), zeros(slots))


def project(params: Params, x: Tensor) -> Tensor:
    """Compute the part of the LSTM's gates that depends on the examples alone, [B, 4U] from x [B, ...]."""
    return F.linear(x.flatten(1), params["input.weight"], params["input.bias"])


def step(params: Params, state: State, drive: Tensor, nudge: Tensor | float = 0.0) -> State:
    """Read one example: update the state.

    The paper writes the key that it reads with. Here each head writes a vector of its own, as in the reimplementations
    that reach the published accuracies. Slots of equal usage are used in their order.

    Args:
        params: the network's parameters.
        state: state before the example.
        drive: [4U] from ``project``; or [B, 4U], each of the B examples as the next one.
        nudge: a zero, added to the heads' input so that its gradient is the slope of each step.

    Returns:
        The state after the example, or B states with a leading axis; ``label`` is still the one before.
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
    """Scale vectors [..., D] to length 1, so that their products are cosines; 0 stays 0 and has a derivative."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-8)


def follow(
    params: Params, state: State, drive: Tensor, labels: Tensor, nudges: Iterable[Tensor | float] = repeat(0.0)
) -> list[State]:
    """Read a sequence of S examples.

    Args:
        params: the network's parameters.
        state: state before the sequence.
        drive: [S, 4U] from ``project``.
        labels: [S, N] one-hot.
        nudges: see ``step``, one for each example.

    Returns:
        The state after each example. It contains the example's label, on which its features do not depend.
    """
    states = []
    for now, label, nudge in zip(drive.unbind(), labels.unbind(), nudges, strict=False):
        state = step(params, state, now, nudge)._replace(label=label)
        states.append(state)
    return states


def classify(params: Params, features: Tensor) -> Tensor:
    """Compute logits [..., N] from features [..., U + M*D]."""
    return F.linear(features, params["head.weight"], params["head.bias"])


def gradient(
    params: Params, state: State, x: Tensor, labels: Tensor, loss: Callable[[Tensor], tuple[Tensor, Metrics]]
) -> tuple[Params, Metrics]:
    """Compute the gradient of a loss over a sequence with respect to the parameters.

    Every step uses the same weights, so their gradient is a sum over steps of slope times input. Autograd adds it up
    one step at a time, with a copy of the weights in memory for each task. Here the slopes of all steps are computed
    first, as gradients of zeros added at each step, and the sum is one product: two to three times as fast.

    Args:
        params: the network's parameters.
        state: state before the sequence.
        x: [S, ...] examples.
        labels: [S, N] one-hot.
        loss: logits [S, N] -> (scalar, metrics).

    Returns:
        (gradient like ``params``, metrics).
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
