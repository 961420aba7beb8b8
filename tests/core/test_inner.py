from __future__ import annotations

import pytest
import torch

from metarun.core import rng
from metarun.core.inner import SGD, Adam, Carry, Inner, descend, final, minibatch
from metarun.core.meta import Meta


def test_descend_yields_every_iterate() -> None:
    inner = Inner(lambda meta: Carry(meta.model, {}), lambda meta, c, k: Carry({"w": c.params["w"] + k + 1}, {}))
    meta = Meta.of({"w": torch.tensor(0.0)})
    assert [carry.params["w"].item() for carry in descend(inner, meta, 3)] == [0, 1, 3, 6]
    assert final(inner, meta, 3).params["w"].item() == 6
    after = Carry({"w": torch.tensor(1.0)}, {})
    assert [carry.params["w"].item() for carry in descend(inner, meta, 3, 1, after)] == [1, 3, 6]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_optimisers_are_torchs(kind: str) -> None:
    ours = SGD(lr=0.1) if kind == "sgd" else Adam(lr=0.1, beta2=0.99, eps=1e-8)
    start = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs_at = start.clone().requires_grad_()
    theirs = (
        torch.optim.SGD([theirs_at], lr=0.1)
        if kind == "sgd"
        else torch.optim.Adam([theirs_at], lr=0.1, betas=(0.0, 0.99), eps=1e-8)
    )
    carry = Carry({"w": start}, ours.init({"w": start}))
    for k in range(4):
        carry = ours.update(carry, {"w": torch.cos(carry.params["w"] * (k + 1))})
        theirs_at.grad = torch.cos(theirs_at.detach() * (k + 1))
        theirs.step()
        torch.testing.assert_close(carry.params["w"], theirs_at.detach(), rtol=1e-12, atol=1e-12)


def test_minibatches_are_shuffled_passes_end_to_end() -> None:
    batches = [minibatch(rng.root(4), examples=6, batch=4, k=k) for k in range(5)]  # 20 of 24
    assert all(batch.shape == (4,) for batch in batches)
    flat = torch.cat(batches).tolist()
    for first in (0, 6, 12):
        assert sorted(flat[first : first + 6]) == list(range(6))
    assert flat[:6] != flat[6:12]


def test_a_minibatch_may_be_all_there_is_and_more() -> None:
    for k in range(3):
        whole, twice = (minibatch(rng.root(1), examples=5, batch=batch, k=k).tolist() for batch in (5, 10))
        assert sorted(whole) == list(range(5)) and sorted(twice[:5]) == sorted(twice[5:]) == list(range(5))


def test_minibatches_depend_on_the_task_alone() -> None:
    keys = rng.fold(rng.root(0), torch.arange(3))
    for k in range(4):
        together = torch.vmap(lambda key, k=k: minibatch(key, 10, 3, k))(keys)
        assert torch.equal(together, torch.stack([minibatch(key, 10, 3, k) for key in keys]))
        assert not torch.equal(together[0], together[1])
