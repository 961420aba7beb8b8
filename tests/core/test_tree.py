from __future__ import annotations

import pytest
import torch

from metarun.core import tree
from metarun.core.meta import Meta

A = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
B = {"b": torch.tensor(1.0), "w": torch.tensor([10.0, 20.0])}  # another order of names


def equal(a: tree.Params, b: tree.Params) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_arithmetic_goes_by_name() -> None:
    assert equal(tree.add(A, B), {"w": torch.tensor([11.0, 22.0]), "b": torch.tensor(4.0)})
    assert equal(tree.subtract(A, B), {"w": torch.tensor([-9.0, -18.0]), "b": torch.tensor(2.0)})
    assert equal(tree.scale(2, A), {"w": torch.tensor([2.0, 4.0]), "b": torch.tensor(6.0)})
    assert equal(tree.add_scaled(A, -0.5, B), {"w": torch.tensor([-4.0, -8.0]), "b": torch.tensor(2.5)})
    assert equal(tree.zeros_like(A), {"w": torch.zeros(2), "b": torch.tensor(0.0)})


def test_a_tuple_of_dicts_is_a_tree_too() -> None:
    meta = Meta.of(A, inner_state={"t": torch.tensor(2.0)})
    assert [leaf.tolist() for leaf in tree.leaves(meta)] == [[1.0, 2.0], 3.0, 2.0]
    doubled = tree.add(meta, meta)
    assert isinstance(doubled, Meta) and equal(doubled.model, tree.scale(2, A)) and doubled.step_sizes == {}
    assert tree.dot(meta, doubled).item() == 2 * (1 + 4 + 9 + 4)
    part = Meta.of({"b": A["b"]})  # the names are those of the first tree
    assert equal(tree.subtract(part, Meta.of(B)).model, {"b": torch.tensor(2.0)})


def test_dot_and_norm() -> None:
    assert tree.dot(A, B).item() == 10 + 40 + 3
    assert tree.norm(A).item() ** 2 == pytest.approx(14)
