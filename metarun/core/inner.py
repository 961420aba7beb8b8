"""Inner loops: how one task's parameters move. ``hypergrad.py`` differentiates through them."""

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
    """State that one inner step passes to the next.

    Attributes:
        params: the adapted parameters, those of the model that the inner loop moves.
        state: the inner optimiser's state, by name.
    """

    params: Params
    state: Params


class Inner(NamedTuple):
    """One task's inner loop as two pure functions of the meta-parameters.

    Attributes:
        start: meta -> carry before the first step.
        step: (meta, carry, k) -> next carry, k the step number from 0. It gets the meta-parameters, so that everything
            in it can be meta-learned.
    """

    start: Callable[[Meta], Carry]
    step: Callable[[Meta, Carry, int], Carry]


def descend(inner: Inner, meta: Meta, steps: int, first: int = 0, carry: Carry | None = None) -> Iterator[Carry]:
    """Run the inner loop; the package has no other.

    Args:
        inner: the inner loop of one task.
        meta: meta-parameters.
        steps: inner steps S.
        first: number of the step to begin with.
        carry: carry before step ``first``; None: ``inner.start``.

    Yields:
        The carries after ``first``, ``first`` + 1, ..., ``steps`` inner steps.
    """
    carry = carry or inner.start(meta)
    yield carry
    for k in range(first, steps):
        carry = inner.step(meta, carry, k)
        yield carry


def final(inner: Inner, meta: Meta, steps: int) -> Carry:
    """Return the carry after ``steps`` inner steps."""
    *_, last = descend(inner, meta, steps)
    return last


class InnerOptimizer(enum.Enum):
    """Rule of one inner step. ``init`` makes its state, ``update`` moves parameters and state; both are pure."""

    sgd = "sgd"
    adam = "adam"


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent without state: theta <- theta - lr * g.

    Attributes:
        lr: step size.
    """

    lr: float

    def init(self, params: Params) -> Params:
        """Make the state before the first step: empty."""
        return {}

    def update(self, carry: Carry, grads: Params) -> Carry:
        """Take one step along ``grads``, which are like ``carry.params``."""
        return Carry(tree.add_scaled(carry.params, -self.lr, grads), {})


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with beta1 = 0, as Reptile's inner loop uses it.

    The state is the second moments ``v.<name>`` and the step count ``t`` (float scalar).

    Attributes:
        lr: step size.
        beta2: decay of the second moments, 0..1.
        eps: added to the root of the second moments.

    Source: Kingma and Ba 2015, algorithm 1.
    """

    lr: float
    beta2: float
    eps: float

    def init(self, params: Params) -> Params:
        """Make the state before the first step: zeros."""
        like = next(iter(params.values()))
        moments = {f"v.{name}": torch.zeros_like(p) for name, p in params.items()}
        return moments | {"t": torch.zeros((), dtype=like.dtype, device=like.device)}

    def update(self, carry: Carry, grads: Params) -> Carry:
        """Take one step along ``grads``, which are like ``carry.params``."""
        t = carry.state["t"] + 1
        correction = (1 - self.beta2**t).sqrt()
        params, state = {}, {"t": t}
        for name, g in grads.items():
            v = self.beta2 * carry.state[f"v.{name}"] + (1 - self.beta2) * g * g
            params[name] = carry.params[name] - self.lr * g / (v.sqrt() / correction + self.eps)
            state[f"v.{name}"] = v
        return Carry(params, state)


def minibatch(key: Tensor, examples: int, batch: int, k: int) -> Tensor:
    """Choose the support examples of inner step k: shuffled passes, one after another, cut into batches.

    Every example comes once before any comes a second time. A batch may span two passes, as in the code published with
    Reptile.

    Args:
        key: this task's key, int64 scalar.
        examples: size of the support set.
        batch: size of a mini-batch, at most ``examples``.
        k: inner step, from 0.

    Returns:
        Indices into the support set, [batch] int64.
    """
    first, last = k * batch // examples, ((k + 1) * batch - 1) // examples
    order = torch.cat([rng.permutation(rng.fold(key, i), examples) for i in range(first, last + 1)])
    return order[k * batch - first * examples :][:batch]
