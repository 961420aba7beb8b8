"""Inner loops: how one task's parameters move. How to differentiate through them is ``hypergrad.py``'s concern."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarun.core import rng, tree
from metarun.core.meta import Meta
from metarun.core.tree import Params


class Carry(NamedTuple):
    """What one inner step hands to the next: the adapted parameters and the inner optimiser's state."""

    params: Params
    state: Params


class Inner(NamedTuple):
    """One task's inner loop as two pure functions of the meta-parameters.

    start: meta -> the carry before the first step. step: (meta, carry, step number from 0) -> the next carry.
    ``step`` sees the meta-parameters, so that anything in it may be meta-learned.
    """

    start: Callable[[Meta], Carry]
    step: Callable[[Meta, Carry, int], Carry]


def descend(inner: Inner, meta: Meta, steps: int, first: int = 0, carry: Carry | None = None) -> Iterator[Carry]:
    """The carries after 0, 1, ..., ``steps`` inner steps; the only inner loop there is.

    With ``first`` and the carry that step number ``first`` begins from, the rest of that path: from it on.
    """
    carry = carry or inner.start(meta)
    yield carry
    for k in range(first, steps):
        carry = inner.step(meta, carry, k)
        yield carry


def final(inner: Inner, meta: Meta, steps: int) -> Carry:
    """The carry after ``steps`` inner steps."""
    *_, last = descend(inner, meta, steps)
    return last


class InnerOptimizer(enum.Enum):
    """A rule for one step: ``init`` its state, ``update`` parameters and state from a gradient; pure."""

    sgd = "sgd"
    adam = "adam"


@dataclass(frozen=True, kw_only=True)
class SGD:
    """theta <- theta - lr * g; no state."""

    lr: float

    def init(self, params: Params) -> Params:
        return {}

    def update(self, carry: Carry, grads: Params) -> Carry:
        return Carry(tree.add_scaled(carry.params, -self.lr, grads), {})


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with beta1 = 0 (Kingma and Ba 2015, algorithm 1), as Reptile's inner loop uses it.

    State: the second moments ``v.<name>`` and the step count ``t`` (float scalar).
    """

    lr: float
    beta2: float
    eps: float

    def init(self, params: Params) -> Params:
        like = next(iter(params.values()))
        moments = {f"v.{name}": torch.zeros_like(p) for name, p in params.items()}
        return moments | {"t": torch.zeros((), dtype=like.dtype, device=like.device)}

    def update(self, carry: Carry, grads: Params) -> Carry:
        t = carry.state["t"] + 1
        correction = (1 - self.beta2**t).sqrt()
        params, state = {}, {"t": t}
        for name, g in grads.items():
            v = self.beta2 * carry.state[f"v.{name}"] + (1 - self.beta2) * g * g
            params[name] = carry.params[name] - self.lr * g / (v.sqrt() / correction + self.eps)
            state[f"v.{name}"] = v
        return Carry(params, state)


def minibatch(key: Tensor, examples: int, batch: int, k: int) -> Tensor:
    """[batch] indices into a support set for step k: shuffled passes laid end to end, then cut into batches.

    No example comes twice before every other came once, and a batch may span two passes, as in the code published
    with Reptile. ``key``: this task's int64 scalar key.
    """
    first, last = k * batch // examples, ((k + 1) * batch - 1) // examples
    order = torch.cat([rng.permutation(rng.fold(key, i), examples) for i in range(first, last + 1)])
    return order[k * batch - first * examples :][:batch]
