"""What an experiment builds: which parameters are the method's, and what its first line says of the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarun import config
from metarun.core import tree
from metarun.core.batch_norm import Norm
from metarun.core.episode import Episode
from metarun.core.meta import Meta
from metarun.core.objective import classification
from metarun.datasets.base import Split
from metarun.engine.meta_gradient import MetaGradient
from metarun.errors import UserError
from metarun.models.base import Model, functional, initialise
from metarun.runs.evaluate import evaluate
from metarun.runs.setup import Setup, build
from metarun.verify import check, problems
from tests.support.networks import First, convolutions

FEW = ["meta_batch=2", "eval.query=2", "algo.eval_inner_steps=2"]


@dataclasses.dataclass(kw_only=True, slots=True)
class Own(Model):
    make: Callable[[], list[nn.Module]]  # the layers before the head
    frozen: tuple[str, ...] = ()

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        body = nn.Sequential(*self.make(), nn.Flatten())
        net = nn.Sequential()
        net.add_module("body", body)
        net.add_module("head", nn.Linear(body(torch.zeros(2, *input_shape)).shape[1], outputs))
        for name, p in net.named_parameters():
            p.requires_grad_(not name.startswith(self.frozen) if self.frozen else True)
        return net


def bench(make: Callable[[], list[nn.Module]], *words: str, frozen: tuple[str, ...] = ()) -> Setup:
    experiment = config.compose([*FEW, *words])[0]
    return build(dataclasses.replace(experiment, model=Own(make=make, frozen=frozen)))


def plain(module: nn.Module, episodes: Episode, lr: float, steps: int) -> dict[str, Tensor]:
    """MAML's meta-gradient in the parameters that want one, by ``torch.autograd`` and nothing of metarun's."""
    params: dict[str, Tensor] = dict(module.named_parameters())
    moving = [name for name, p in params.items() if p.requires_grad]
    total = torch.zeros((), dtype=torch.float64)
    for support_x, support_y, query_x, query_y, _ in zip(*episodes, strict=True):
        adapted = dict(params)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(functional_call(module, adapted, (support_x,)), support_y)
            grads = torch.autograd.grad(loss, [adapted[name] for name in moving], create_graph=True)
            adapted |= {name: adapted[name] - lr * g for name, g in zip(moving, grads, strict=True)}
        total = total + nn.functional.cross_entropy(functional_call(module, adapted, (query_x,)), query_y)
    grads = torch.autograd.grad(total / len(episodes.key), [params[name] for name in moving])
    return dict(zip(moving, grads, strict=True))


FROZEN: dict[str, tuple[str, ...]] = {
    "the first convolution": ("body.0",),
    "batch norm's scale": ("body.1.weight",),
    "the norms": ("body.1", "body.4"),
    "the body": ("body",),
    "the head": ("head",),
    "all but a scale": ("body.0", "body.1.bias", "body.3", "body.4", "head"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("which", FROZEN)
def test_frozen_parameters_are_constants_in_both_loops(which: str) -> None:
    module = Own(make=convolutions, frozen=FROZEN[which]).build((1, 12, 12), 3).double()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 12, 1, 12, 12, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat_interleave(2).expand(3, -1)
    episodes = Episode(x[:, :6], y, x[:, 6:], y, torch.arange(3))
    want = plain(module, episodes, lr=0.1, steps=2)
    assert want and not any(name.startswith(FROZEN[which]) for name in want)
    maml: Any = config.compose(["algo=maml", "algo.inner_lr=0.1", "algo.inner_steps=2"])[0].algo
    meta = Meta.of({name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad})
    engines = check.engines(torch.device("cpu"))
    for way in ("loop", "vmap", "grouped", "native"):
        engine, calls = engines[way]
        got, _ = MetaGradient(engine, maml, classification(functional(module), 3), calls)(meta, episodes)
        assert list(got.flat()) == list(want) and problems.relative_error(got.model, want) < 1e-10
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


METHODS = {
    "maml": ["algo.hypergrad=recompute", "algo.inner_steps=1"],
    "reptile": ["algo.inner_steps=2"],
    "meta_sgd": ["algo.inner_steps=1"],
    "imaml": ["algo.inner_steps=2", "algo.cg_steps=1"],
    "pretrain": [],
    "protonet": [],
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("algo", METHODS)
def test_every_method_leaves_a_frozen_body_as_it_was(algo: str) -> None:
    b = bench(convolutions, f"algo={algo}", *METHODS[algo], frozen=("body.0", "body.3"))
    before = {name: p.detach().clone() for name, p in b.module.named_parameters()}
    meta = b.first_meta()
    assert meta.model and not any("body.0" in name or "body.3" in name for name in meta.flat())
    support, query = b.experiment.training_shots()
    tasks = b.tasks.sample(Split.train, 0, range(2), 5, support, query)
    grads, _ = b.meta_gradient()(meta, tasks)
    assert list(grads.flat()) == list(meta.flat())
    moved = tree.add_scaled(meta, -0.1, grads)
    evaluate(b, moved, Split.test, 2, Norm.support, last_only=True)
    assert all(torch.equal(p, before[name]) for name, p in b.module.named_parameters())


def twice_by_name() -> list[nn.Module]:
    conv, norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1, track_running_stats=False)
    return [conv, norm, nn.Tanh(), conv, norm]


def twice_by_weight() -> list[nn.Module]:
    layers = nn.Linear(28, 28), nn.Linear(28, 28, bias=False)
    layers[1].weight = layers[0].weight
    return [layers[0], nn.Tanh(), layers[1]]


@pytest.mark.parametrize("make", [twice_by_name, twice_by_weight])
def test_what_a_network_uses_twice_is_one_set_of_parameters(make: Callable[[], list[nn.Module]]) -> None:
    """torch's ``functional_call`` leaves what it was given in a layer that has two names."""
    b = bench(make, "algo=maml", "algo.inner_steps=2", "algo.inner_lr=0.1", "query=2", "steps=1")
    module = initialise(Own(make=make), (1, 28, 28), 5, seed=0)
    first = {name: p.detach().clone() for name, p in module.named_parameters()}
    meta = b.first_meta()
    tasks = b.tasks.sample(Split.train, 0, range(2), 5, 1, 2)
    got, _ = b.meta_gradient()(meta, tasks)
    evaluate(b, meta, Split.test, 2, Norm.transductive)
    assert problems.relative_error(got.model, plain(module, tasks, lr=0.1, steps=2)) < 1e-4
    for name, p in first.items():
        now = b.module.get_parameter(name)
        assert now.requires_grad and torch.equal(now, p) and torch.equal(meta.model[name], p)
    assert list(meta.model) == list(first)


def test_nothing_left_to_train_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model: every parameter has requires_grad=False, and nothing is left to"):
        bench(convolutions, frozen=("body", "head"))
    with pytest.raises(UserError, match=r"^model: algo=protonet needs a network whose last layer is linear"):
        bench(convolutions, "algo=protonet", frozen=("head",))


ENGINES: dict[str, tuple[Callable[[], list[nn.Module]], list[str], str]] = {
    "convolutions": (convolutions, [], "grouped with native kernels, compile=auto"),
    "uncompiled": (convolutions, ["device.compile=false"], "vmap, compile=false"),
    "one by one": (convolutions, ["device.vectorize=loop"], "loop, compile=auto"),
    "recurrent, behind a convolution": (
        lambda: [nn.Conv2d(1, 8, 3, 2), nn.Flatten(2), nn.RNN(169, 4, batch_first=True), First()],
        [],
        "loop, compile=auto",
    ),
    "dilated alone": (lambda: [nn.Conv2d(1, 8, 3, 2, dilation=2)], [], "vmap, compile=auto"),
    "dilated alone, grouped": (
        lambda: [nn.Conv2d(1, 8, 3, 2, dilation=2)],
        ["device.vectorize=grouped"],
        "grouped, compile=auto",
    ),
    "a convolution that is never called": (lambda: [Idle()], [], "vmap, compile=auto"),
}


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Conv2d(1, 8, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("network", ENGINES)
def test_the_first_line_says_what_runs(network: str) -> None:
    make, words, line = ENGINES[network]
    assert bench(make, *words).engine.describe() == line
