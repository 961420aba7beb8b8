"""The cell: against the same equations slot by slot, against torch's LSTM, and one example at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from metarun.core import memory_cell
from metarun.core.objective import cross_entropy
from metarun.core.tree import Params
from metarun.verify.mann_definition import sequence_logits

WAY, INPUTS, UNITS, LENGTH = 3, 4, 5, 12


def parameters(heads: int = 2, width: int = 3, seed: int = 0) -> Params:
    features = UNITS + heads * width
    shapes = {
        "input.weight": (4 * UNITS, INPUTS),
        "input.bias": (4 * UNITS,),
        "recurrent.weight": (4 * UNITS, WAY + features),
        "access.weight": (heads * (2 * width + 1), UNITS),
        "access.bias": (heads * (2 * width + 1),),
        "head.weight": (WAY, features),
        "head.bias": (WAY,),
    }
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: value for name, value in drawn.items() if heads or not name.startswith("access")}


def sequence(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x [S, INPUTS], labels as numbers [S] and one-hot [S, N]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(LENGTH, INPUTS, generator=generator, dtype=torch.float64)
    y = torch.randint(WAY, (LENGTH,), generator=generator)
    return x, y, torch.eye(WAY, dtype=torch.float64)[y]


def followed(params: Params, slots: int, x: Tensor, labels: Tensor) -> list[memory_cell.State]:
    return memory_cell.follow(params, memory_cell.blank(params, slots), memory_cell.project(params, x), labels)


def logits(params: Params, slots: int, x: Tensor, labels: Tensor) -> Tensor:
    return memory_cell.classify(params, torch.stack([state.features for state in followed(params, slots, x, labels)]))


@pytest.mark.parametrize("slots", [2, 5, 30])  # with 5 and fewer, slots are used again
@pytest.mark.parametrize("heads", [0, 1, 2])
def test_a_sequence_is_what_the_equations_say(heads: int, slots: int) -> None:
    params, (x, y, labels) = parameters(heads), sequence()
    want = torch.stack(sequence_logits(params, slots, x, y))
    torch.testing.assert_close(logits(params, slots, x, labels), want, rtol=1e-11, atol=1e-11)


def test_without_heads_it_is_torchs_lstm() -> None:
    params, (x, _, labels) = parameters(heads=0), sequence()
    theirs = nn.LSTMCell(INPUTS + WAY, UNITS).double()
    order = torch.arange(4 * UNITS).reshape(4, UNITS)[[0, 1, 3, 2]].flatten()  # theirs: in, forget, new, out
    from_label, from_hidden = params["recurrent.weight"].split([WAY, UNITS], 1)
    with torch.no_grad():
        theirs.weight_ih.copy_(torch.cat([params["input.weight"], from_label], 1)[order])
        theirs.weight_hh.copy_(from_hidden[order])
        theirs.bias_ih.copy_(params["input.bias"][order])
        theirs.bias_hh.zero_()
        hidden, cell, label = torch.zeros(UNITS).double(), torch.zeros(UNITS).double(), torch.zeros(WAY).double()
        for image, after, state in zip(x, labels, followed(params, 4, x, labels), strict=True):
            hidden, cell = theirs(torch.cat([image, label]), (hidden, cell))
            label = after
            torch.testing.assert_close(state.features, hidden)
            torch.testing.assert_close(state.cell, cell)


def test_examples_that_share_a_state_do_not_see_each_other() -> None:
    params, (x, _, labels) = parameters(), sequence()
    state = followed(params, 5, x, labels)[-1]
    others = torch.randn(7, INPUTS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drive = memory_cell.project(params, others)
    together = memory_cell.step(params, state, drive)
    for i, alone in enumerate(drive):
        one = memory_cell.step(params, state, alone)
        for name in ("features", "cell", "memory", "read", "usage"):
            torch.testing.assert_close(getattr(together, name)[i], getattr(one, name))


def test_the_state_has_the_sizes_of_the_parameters() -> None:
    for heads, width in ((0, 3), (2, 3), (4, 1)):
        params = parameters(heads, width)
        state = memory_cell.blank(params, slots=6)
        shapes = [tuple(value.shape) for value in state]
        width = width if heads else 0
        assert shapes == [(WAY,), (UNITS + heads * width,), (UNITS,), (6, width), (heads, 6), (6,)]
        assert all(value.dtype == torch.float64 and not value.any() for value in state)


def test_writing_goes_to_what_was_read_or_least_used() -> None:
    params = parameters()
    blank = memory_cell.blank(params, slots=4)
    usage = torch.tensor([3.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    stored = torch.ones(4, 3, dtype=torch.float64)
    read = torch.tensor([[0, 0, 0, 1.0], [0, 0, 0, 1.0]], dtype=torch.float64)
    before = blank._replace(memory=stored, read=read, usage=usage)
    drive = memory_cell.project(params, torch.zeros(1, INPUTS, dtype=torch.float64))[0]

    def written(gate: float) -> memory_cell.State:
        told = params["access.bias"].clone()
        told[-2:] = gate
        silent = {**params, "access.weight": 0 * params["access.weight"], "access.bias": told}
        return memory_cell.step(silent, before, drive)

    added = params["access.bias"][6:12].reshape(2, 3).tanh()
    fresh, updated = written(-1e3), written(1e3)
    # to the least used slot, which is wiped, and the next one, a head each
    torch.testing.assert_close(fresh.memory, torch.stack([stored[0], added[0], 1 + added[1], stored[3]]))
    torch.testing.assert_close(updated.memory, torch.stack([stored[0], 0 * added[0], stored[2], 1 + added.sum(0)]))
    wrote = torch.tensor([0, 1.0, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(fresh.usage, 0.95 * usage + wrote + fresh.read.sum(0))


def test_reading_prefers_what_is_alike() -> None:
    params, (x, _, labels) = parameters(), sequence()
    state = followed(params, 30, x, labels)[-1]
    assert torch.allclose(state.read.sum(1), torch.ones(2, dtype=torch.float64))
    assert state.read.max() / state.read.min() <= torch.e**2 * 1.0001  # cosines lie in -1..1


@pytest.mark.parametrize("heads", [0, 2])
def test_the_gradient_is_autograds(heads: int) -> None:
    params, (x, y, labels) = parameters(heads), sequence()
    state = followed(params, 5, *(part[:3] for part in (x, labels)))[-1]  # not only from a blank one

    def loss(out: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return cross_entropy(out, y), {"largest": out.detach().max()}

    got, metrics = memory_cell.gradient(params, state, x, labels, loss)
    leaves = {name: value.requires_grad_() for name, value in params.items()}
    states = memory_cell.follow(
        leaves, memory_cell.State(*(v.detach() for v in state)), memory_cell.project(leaves, x), labels
    )
    out = memory_cell.classify(leaves, torch.stack([s.features for s in states]))
    want = torch.autograd.grad(cross_entropy(out, y), list(leaves.values()))
    for name, value in zip(leaves, want, strict=True):
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-12)
    assert list(got) == list(params) and metrics["largest"] == out.max()


def test_tasks_side_by_side() -> None:
    params = parameters()
    sequences = [sequence(seed) for seed in range(3)]
    x, _, labels = (torch.stack(part) for part in zip(*sequences, strict=True))
    together = vmap(lambda x, labels: logits(params, 5, x, labels))(x, labels)
    for i, (x_i, _, labels_i) in enumerate(sequences):
        torch.testing.assert_close(together[i], logits(params, 5, x_i, labels_i))


def test_an_unwritten_memory_has_a_derivative() -> None:
    params, (x, _, labels) = parameters(), sequence()
    zero = {name: torch.zeros_like(value).requires_grad_() for name, value in params.items()}
    grads = torch.autograd.grad(logits(zero, 5, x, labels).square().sum(), list(zero.values()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in grads)
