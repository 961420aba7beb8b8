"""A frozen network gives the outputs of support statistics, for each example alone, or is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.core.batch_norm import Norm, predict
from metarun.errors import UserError
from metarun.learner.frozen import freeze, held, restore
from metarun.models.base import functional


class ByFunction(nn.Module):
    """Batch norm without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.batch_norm(self.a(x), None, None, training=True).relu())


class Twice(nn.Module):
    """One batch norm layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(self.norm(x).tanh())))


class Shared(nn.Module):
    """One tensor in two layers, and another layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.b.weight, self.again = self.a.weight, self.a
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.again(self.b(self.a(x).tanh()).tanh())))


def series() -> nn.Module:
    """Batch norm of series and of vectors, one of them without scale and shift."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 3)),
        nn.Conv1d(1, 4, 2),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.BatchNorm1d(8, affine=False, track_running_stats=False),
        nn.Linear(8, 2),
    )


def case(network: nn.Module) -> tuple[nn.Module, dict[str, Tensor], Tensor, Tensor]:
    """The network, values that are not its own, a support set, and queries of another kind."""
    torch.manual_seed(0)
    values = {name: p.detach() + torch.randn_like(p) for name, p in network.named_parameters()}
    return network.train(), values, torch.randn(6, 3), 3 * torch.randn(5, 3) + 2


@pytest.mark.parametrize("make", [Shared, series, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))])
def test_it_gives_the_outputs_of_support_statistics_one_by_one(make) -> None:
    network, values, support, queries = case(make())
    before = {name: value.clone() for name, value in held(network).items()}
    frozen = freeze(network, values, support)
    want = predict(functional(network), values, support, queries, Norm.support)
    assert torch.allclose(frozen(queries), want, atol=1e-5)
    assert torch.allclose(torch.cat([frozen(x[None]) for x in queries]), frozen(queries), atol=1e-5)
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    again = restore(network, held(frozen))
    assert torch.equal(again(queries), frozen(queries)) and not again.training
    assert network.training and all(torch.equal(value, before[name]) for name, value in held(network).items())


@pytest.mark.parametrize("make", [ByFunction, Twice])
def test_other_uses_of_batch_statistics_are_refused(make: type[nn.Module]) -> None:
    network, values, support, _ = case(make())
    with pytest.raises(UserError, match="uses batch statistics in another way than by batch norm layers"):
        freeze(network, values, support)


def test_its_state_dict_is_that_of_layers_as_torch_makes_them() -> None:
    network, values, support, queries = case(series())
    frozen = freeze(network, values, support)
    plain = nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(),
        nn.BatchNorm1d(8, affine=False), nn.Linear(8, 2),
    )  # fmt: skip
    plain.load_state_dict(frozen.state_dict())
    assert torch.equal(plain.eval()(queries), frozen(queries))
