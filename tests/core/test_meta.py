"""Meta-parameters, and the one dict that optimisers and checkpoints see of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from metarun import config
from metarun.core.meta import Meta
from metarun.errors import UserError
from metarun.models.base import Model
from metarun.runs.setup import build
from tests.support.commands import same

# names that look like those of another field
META = Meta.of(
    {"head.weight": torch.tensor([1.0, 2.0]), "lr.x": torch.tensor(3.0), "body.inner.w": torch.tensor(4.0)},
    step_sizes={"lr.x": torch.tensor(5.0), "head.weight": torch.tensor([6.0])},
    later={"lr.x": torch.tensor([9.0]), "later.w": torch.tensor([[1.5]])},
    inner_state={"v.head.weight": torch.tensor([7.0]), "t": torch.tensor(8.0)},
)


def test_flat_and_back_keeps_fields_order_and_values() -> None:
    flat = META.flat()
    sizes, state = ["inner.lr.lr.x", "inner.lr.head.weight"], ["inner.v.head.weight", "inner.t"]
    later = ["inner.later.lr.x", "inner.later.later.w"]
    assert list(flat) == ["head.weight", "lr.x", "body.inner.w", *sizes, *later, *state]
    back = Meta.from_flat(flat)
    assert same(back, META)
    for ours, given in zip(back, META, strict=True):
        assert list(ours) == list(given) and all(ours[name] is given[name] for name in given)


def test_a_file_in_another_order_has_the_same_fields() -> None:
    flat = META.flat()
    back = Meta.from_flat({name: flat[name] for name in sorted(flat)})
    for ours, given in zip(back, META, strict=True):
        assert ours.keys() == given.keys() and all(ours[name] is given[name] for name in given)


@dataclasses.dataclass(kw_only=True, slots=True)
class Named(Model):
    """A linear network whose only layer has this name."""

    name: str

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        net = nn.Sequential()
        net.add_module(self.name, nn.Linear(input_shape[0], outputs))
        return net


def test_a_network_must_leave_the_methods_names_alone() -> None:
    def names(layer: str) -> list[str]:
        experiment = config.compose(["dataset=sinusoid"])[0]
        return list(build(dataclasses.replace(experiment, model=Named(name=layer))).first_meta().flat())

    with pytest.raises(UserError) as caught:
        names("inner")
    assert str(caught.value) == "model: inner.weight: in checkpoints inner.* are the method's own; rename the layer"
    assert names("inner_layer") == ["inner_layer.weight", "inner_layer.bias"]
