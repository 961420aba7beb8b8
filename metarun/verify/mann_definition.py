"""Definition of MANN's meta-gradient: slot by slot and head by head, one task at a time, by ``torch.autograd``.

It uses nothing of ``memory_cell.py`` and ``algorithms/mann.py`` but the number of slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.algorithms.mann import MANN
from metarun.core.episode import Episode
from metarun.core.inner import minibatch
from metarun.core.objective import Supervised
from metarun.core.tree import Params

DECAY, TINY = 0.95, 1e-8


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle between two vectors, a scalar; 0 for a vector of zeros."""
    return (a @ b) / ((a @ a + TINY).sqrt() * (b @ b + TINY).sqrt())


def sequence_logits(params: Params, size: int, x: Tensor, y: Tensor) -> list[Tensor]:
    """Predict each example of a sequence.

    Args:
        params: the network's parameters.
        size: slots of the memory.
        x: the examples [L, ...], in the order of the sequence.
        y: their labels [L].

    Returns:
        The logits [N] of each of the L examples.
    """
    units, features = params["recurrent.weight"].shape[0] // 4, params["head.weight"].shape[1]
    heads = 0
    if "access.weight" in params:
        heads = len(params["access.weight"]) - 2 * (features - units)
    width = (features - units) // heads if heads else 0
    zero = params["head.weight"].new_zeros
    hidden, cell, given = zero(units), zero(units), [zero(width) for _ in range(heads)]
    slots = [zero(width) for _ in range(size)]
    read = [[zero(()) for _ in slots] for _ in range(heads)]
    usage = [zero(()) for _ in slots]
    label, logits = zero(len(params["head.weight"])), []
    for image, number in zip(x, y, strict=True):
        gates = params["input.weight"] @ image.flatten() + params["input.bias"]
        gates = gates + params["recurrent.weight"] @ torch.cat([label, hidden, *given])
        enter, keep, leave, new = (gates[i * units : (i + 1) * units] for i in range(4))
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        if heads:
            told = params["access.weight"] @ hidden + params["access.bias"]
            keys = [torch.tanh(told[h * width : (h + 1) * width]) for h in range(heads)]
            added = [torch.tanh(told[(heads + h) * width : (heads + h + 1) * width]) for h in range(heads)]
            gate = [torch.sigmoid(told[2 * heads * width + h]) for h in range(heads)]
            least = sorted(range(len(slots)), key=lambda s: usage[s].item())[:heads]
            slots[least[0]] = zero(width)
            usage = [DECAY * used for used in usage]
            for h in range(heads):
                for s in range(len(slots)):
                    weight = gate[h] * read[h][s] + (1 - gate[h]) * (least[h] == s)
                    slots[s] = slots[s] + weight * added[h]
                    usage[s] = usage[s] + weight.detach()
            for h in range(heads):
                likeness = torch.stack([cosine(keys[h], slot) for slot in slots]).exp()
                read[h] = list(likeness / likeness.sum())
                given[h] = sum((w * slot for w, slot in zip(read[h], slots, strict=True)), zero(width))
                usage = [used + w.detach() for used, w in zip(usage, read[h], strict=True)]
        logits.append(params["head.weight"] @ torch.cat([hidden, *given]) + params["head.bias"])
        label = zero(len(label))
        label[number] = 1
    return logits


def sequence_loss(algorithm: MANN, params: Params, task: Episode) -> Tensor:
    """Compute the mean cross-entropy of a task's support set, read in the order drawn from the task's key."""
    order = minibatch(task.key, len(task.support_y), len(task.support_y), 0)
    x, y = task.support_x[order], task.support_y[order]
    logits = sequence_logits(params, algorithm.slots, x, y)
    losses = [torch.logsumexp(row, 0) - row[number] for row, number in zip(logits, y, strict=True)]
    return torch.stack(losses).mean()


def mann_reference(algorithm: MANN, problem: Supervised, meta: Params, task: Episode) -> Params:
    """Return the gradient of ``sequence_loss``, as ``definitions.py`` does for the other methods."""
    leaves = {name: p.detach().requires_grad_() for name, p in meta.items()}
    loss = sequence_loss(algorithm, leaves, task)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
