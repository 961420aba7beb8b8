from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn

from metarun import config
from metarun.errors import UserError
from metarun.models.base import Init, Model, functional, initialise
from metarun.models.conv4 import Conv4
from metarun.models.mlp import MLP


def option(name: str) -> Model:
    return config.compose([f"model={name}"])[0].model


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", config.choices("model"))
def test_every_option_maps_a_batch_to_outputs(name: str) -> None:
    side = 84 if "mini" in name else 28
    outputs = 6 if name == "gaussian_mlp" else 5  # of a policy: a mean and a deviation for each action
    module = initialise(option(name), (1, side, side), outputs, seed=0)
    out = functional(module)(dict(module.named_parameters()), torch.rand(6, 1, side, side))
    assert out.shape == (6, outputs) and out.isfinite().all()


def test_conv4_details() -> None:
    def widths(name: str, side: int = 28) -> tuple[int, int]:
        params = dict(initialise(option(name), (1, side, side), 5, seed=0).named_parameters())
        return params["head.weight"].shape[1], sum(p.numel() for p in params.values())

    # 3x3 convolutions 1-64-64-64-64 without biases, which batch norm cancels: 111,168 weights; scale and shift: 512;
    # head on 64 or 256 features
    assert widths("conv4") == (64, 111_168 + 512 + 65 * 5)
    assert widths("conv4_maml") == (64, 111_168 + 256 + 65 * 5)
    assert widths("conv4_reptile") == (256, 111_168 + 512 + 257 * 5)
    assert widths("conv4_pool") == (64, 111_168 + 512 + 65 * 5)
    assert widths("conv4_mini", 84)[0] == 800  # 5x5 positions, 32 filters
    assert widths("conv4_mini_reptile", 84)[0] == 1152  # 6x6: pooling keeps odd rows


def test_first_parameters_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, b, c = (initialise(option("conv4"), (1, 28, 28), 5, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


def test_initialisations() -> None:
    layer = nn.Linear(400, 300)
    xavier = (2 / 700) ** 0.5
    for init, spread in (
        (Init.xavier, xavier),
        (Init.xavier_wide, 1.73 * xavier),
        (Init.normal, 1.0),
        (Init.small, 0.0088),
    ):
        init.apply(layer)
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.05)
        assert (layer.bias == 0).all()
    assert layer.weight.abs().max() <= 0.02


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="use model=mlp"):
        initialise(option("conv4"), (1,), 5, 0)
    with pytest.raises(UserError, match="too small"):
        initialise(option("conv4_pool"), (1, 8, 8), 5, 0)


def test_running_statistics_are_refused() -> None:
    @dataclasses.dataclass(kw_only=True, slots=True)
    class Tracking(Model):
        def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(4, outputs), nn.BatchNorm1d(outputs))

    with pytest.raises(UserError, match=r"layer 2 keeps running statistics.*track_running_stats=False"):
        initialise(Tracking(), (1, 2, 2), 5, 0)


def test_what_is_no_pure_function_is_refused() -> None:
    @dataclasses.dataclass(kw_only=True, slots=True)
    class Dropping(Model):
        def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, outputs))

    with pytest.raises(UserError, match=r"layer 1 \(Dropout\) draws random numbers in forward, .*build it with p=0"):
        initialise(Dropping(), (1, 2, 2), 5, 0)


def test_numpy_and_python_draw_the_first_parameters_from_the_seed_too() -> None:
    @dataclasses.dataclass(kw_only=True, slots=True)
    class Drawn(Model):
        def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
            layer = nn.Linear(3, outputs)
            layer.bias.data.fill_(random.random() + np.random.rand())
            return layer

    a, b, c = (initialise(Drawn(), (3,), 5, seed).get_parameter("bias")[0] for seed in (2**40, 2**40, 1))
    assert a == b != c


def test_mlp_takes_flat_and_shaped_inputs() -> None:
    mlp = option("mlp")
    assert isinstance(mlp, MLP) and not isinstance(option("conv4"), MLP) and isinstance(option("conv4_pool"), Conv4)
    assert sum(p.numel() for p in initialise(mlp, (1,), 1, 0).parameters()) == 80 + 1640 + 41
    assert initialise(dataclasses.replace(mlp, hidden=[]), (1, 2, 3), 4, 0)(torch.rand(2, 1, 2, 3)).shape == (2, 4)


def test_the_papers_mlp_has_a_shift_alone_behind_each_hidden_layer() -> None:
    network = initialise(option("mlp_maml"), (1, 28, 28), 5, 0)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert [(norm.num_features, norm.eps) for norm in norms] == [(256, 1e-3), (128, 1e-3), (64, 1e-3), (64, 1e-3)]
    shifts = [name for name, p in network.named_parameters() if p.ndim == 1]
    assert len(shifts) == 5 + 4, "a bias of each layer, a shift of each norm, and no scale"
    x = torch.rand(7, 1, 28, 28, dtype=torch.float64)
    first, norm = network.double().get_submodule("body.1"), norms[0]
    h = first(x.flatten(1))
    by_hand = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-3).sqrt()
    torch.testing.assert_close(norm(h), by_hand)
