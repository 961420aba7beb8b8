"""What the mode takes over, what it leaves to torch, and that neither changes a result."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from metarun import config
from metarun.algorithms.maml import MAML, Derivative
from metarun.compat.torch_dispatch import TorchDispatchMode
from metarun.core.meta import Meta
from metarun.core.ops import norm_relu_pool
from metarun.engine.kernels.build import Library, library
from metarun.engine.kernels.mode import Grouped
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import TRACE_PAYS, Compile, Engine, Vectorize
from metarun.models.base import functional
from metarun.verify import check, problems
from metarun.verify.problems import Case

pytestmark = pytest.mark.sampled(3)


class Calls(TorchDispatchMode):
    """The native operators that run within, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.tasks: list[list[int]] = []  # of their tensors, the first axis

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "metarun":
            self.names.append(func.name().removeprefix("metarun::"))
            self.tasks.append([len(a) for a in args if isinstance(a, Tensor)])
        return func(*args, **(kwargs or {}))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def ran(fn: Callable[..., Any], *given: Tensor, native: Library | None = None) -> tuple[Any, list[str]]:
    """The result with the mode on, and the native operators that it took."""
    with Calls() as calls, Grouped(native or library()):
        result = fn(*given)
    return result, calls.names


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = make().double()
    for parameter in module.parameters():  # away from the 0 and 1 of a fresh layer
        nn.init.normal_(parameter, 0.2, 0.5)
    return module


TAKEN_OVER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "3x3": (lambda: nn.Conv2d(8, 16, 3, padding=1, bias=False), (2, 8, 6, 6), "convolve"),
    "3x3 with a bias": (lambda: nn.Conv2d(8, 16, 3), (2, 8, 5, 4), "convolve"),
    "7x7 of stride 2": (lambda: nn.Conv2d(3, 16, 7, 2, 3), (2, 3, 9, 9), "convolve"),
    "1x1": (lambda: nn.Conv2d(16, 8, 1), (2, 16, 4, 4), "convolve"),
    "words in pairs": (lambda: nn.Conv2d(3, 8, (3, 3), (2, 2), (1, 1), (1, 1)), (2, 3, 7, 5), "convolve"),
    "reflected borders": (lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 5), "convolve"),
    "one filter": (lambda: nn.Conv2d(8, 1, 3), (2, 8, 4, 4), "convolve"),
    "odd channels": (lambda: nn.BatchNorm2d(9, track_running_stats=False), (4, 9, 3, 3), "norm"),
    "batch norm": (lambda: nn.BatchNorm2d(16, track_running_stats=False), (4, 16, 3, 3), "norm"),
    "batch norm's eval": (lambda: nn.BatchNorm2d(8, 0.1, track_running_stats=False).eval(), (4, 8, 2, 3), "norm"),
}


@pytest.mark.parametrize("layer", TAKEN_OVER)
def test_layers_that_it_takes_over(layer: str) -> None:
    make, shape, operator = TAKEN_OVER[layer]
    module, x = seeded(make), drawn(*shape)
    got, names = ran(module, x)
    assert names == [operator]
    torch.testing.assert_close(got, module(x), rtol=1e-11, atol=1e-11)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), "convolve"),
    "conv2d without a bias": (lambda x, w, b: F.conv2d(x, w), "convolve"),
    "torch.conv2d": (lambda x, w, b: torch.conv2d(x, w, b, 2), "convolve"),
    "conv2d by names": (lambda x, w, b: F.conv2d(stride=2, weight=w, input=x, bias=b), "convolve"),
    "conv2d, lists of one": (lambda x, w, b: F.conv2d(x, w, b, [2], (1,)), "convolve"),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, b, b.sin(), True), "norm"),
    "batch_norm by names": (
        lambda x, w, b: F.batch_norm(x, bias=b, weight=b, running_var=None, running_mean=None, training=True, eps=0.1),
        "norm",
    ),
    "norm_relu_pool": (lambda x, w, b: norm_relu_pool(x, b, b, 0.1, True, True), "norm"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_that_it_takes_over(function: str) -> None:
    fn, operator = FUNCTIONS[function]
    given = drawn(3, 8, 6, 7), drawn(8, 8, 3, 3), drawn(8)
    got, names = ran(fn, *given)
    assert names == [operator]
    torch.testing.assert_close(got, fn(*given), rtol=1e-11, atol=1e-11)


LEFT_ALONE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "groups": (lambda: nn.Conv2d(8, 16, 3, groups=2), (2, 8, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), (2, 8, 5, 5)),
    "dilation": (lambda: nn.Conv2d(8, 8, 3, dilation=2), (2, 8, 7, 7)),
    "same": (lambda: nn.Conv2d(8, 8, 3, padding="same"), (2, 8, 5, 5)),
    "valid": (lambda: nn.Conv2d(8, 8, 3, padding="valid"), (2, 8, 5, 5)),
    "rectangular kernel": (lambda: nn.Conv2d(8, 8, (3, 5)), (2, 8, 7, 7)),
    "unlike strides": (lambda: nn.Conv2d(8, 8, 3, (1, 2)), (2, 8, 7, 7)),
    "unlike padding": (lambda: nn.Conv2d(8, 8, 3, padding=(0, 1)), (2, 8, 7, 7)),
    "unlike dilation": (lambda: nn.Conv2d(8, 8, 3, dilation=(1, 2)), (2, 8, 7, 7)),
    "one image": (lambda: nn.Conv2d(8, 8, 3), (8, 7, 7)),
    "conv1d": (lambda: nn.Conv1d(8, 8, 3), (2, 8, 7)),
    "conv3d": (lambda: nn.Conv3d(8, 8, 3), (2, 8, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 8, 3), (2, 8, 4, 4)),
    "running statistics": (lambda: nn.BatchNorm2d(8), (4, 8, 3, 3)),
    "running statistics' eval": (lambda: nn.BatchNorm2d(8).eval(), (4, 8, 3, 3)),
    "no scale and shift": (lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False), (4, 8, 3, 3)),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(8, track_running_stats=False), (4, 8)),
    "batch norm of series": (lambda: nn.BatchNorm1d(8, track_running_stats=False), (4, 8, 5)),
    "batch norm of volumes": (lambda: nn.BatchNorm3d(8, track_running_stats=False), (2, 8, 3, 3, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 8), (2, 8, 3, 3)),
    "instance norm": (lambda: nn.InstanceNorm2d(8, affine=True), (2, 8, 3, 3)),
}


@pytest.mark.parametrize("layer", LEFT_ALONE)
def test_layers_that_it_leaves_alone(layer: str) -> None:
    make, shape = LEFT_ALONE[layer]
    x = drawn(*shape)
    got, names = ran(seeded(make), x)
    assert names == []
    want = seeded(make)(x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", LEFT_ALONE)
def test_what_is_left_alone_has_torchs_own_derivative(layer: str) -> None:
    make, shape = LEFT_ALONE[layer]
    results = []
    for mode in (Grouped(library()), Grouped(None), None):
        module, x = seeded(make), drawn(*shape).requires_grad_()
        if mode is None:
            y = module(x)
        else:
            with mode:
                y = module(x)
        results.append((y, *torch.autograd.grad(y.tanh().sum(), (x, *module.parameters()))))
    for native, grouped, want in zip(*results, strict=True):
        assert torch.equal(native, want) and torch.equal(grouped, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_precisions_that_it_leaves_alone(dtype: torch.dtype) -> None:
    x, w, b = (t.to(dtype) for t in (drawn(2, 8, 5, 5), drawn(8, 8, 3, 3), drawn(8)))
    got, names = ran(F.conv2d, x, w, b)
    assert names == [] and torch.equal(got, F.conv2d(x, w, b))
    if not dtype.is_complex:
        got, names = ran(lambda x: F.batch_norm(x, None, None, b, b, training=True), x)
        assert names == [] and torch.equal(got, F.batch_norm(x, None, None, b, b, training=True))
        got, names = ran(lambda x: norm_relu_pool(x, b, b, 1e-3, True, True), x)
        assert names == [] and torch.equal(got, norm_relu_pool(x, b, b, 1e-3, True, True))


def test_running_statistics_are_still_updated() -> None:
    x, module, same = drawn(4, 8, 3, 3), nn.BatchNorm2d(8).double(), nn.BatchNorm2d(8).double()
    ran(module, x)
    same(x)
    assert torch.equal(module.state_dict()["running_mean"], same.state_dict()["running_mean"])
    assert module.state_dict()["running_mean"].any()


def test_without_kernels_nothing_native_runs() -> None:
    x, w, b = drawn(2, 8, 5, 5), drawn(8, 8, 3, 3), drawn(8)

    def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return norm_relu_pool(F.conv2d(x, w, b), b, b, 1e-3, True, False).sum()

    with Calls() as calls, Grouped(None):
        got = grad(layer, (0, 1, 2))(x, w, b)
    assert calls.names == []
    for a, want in zip(got, grad(layer, (0, 1, 2))(x, w, b), strict=True):
        torch.testing.assert_close(a, want, rtol=1e-11, atol=1e-11)


def test_outside_of_the_mode_it_is_off() -> None:
    module, x = seeded(lambda: nn.Conv2d(8, 8, 3)), drawn(2, 8, 5, 5)
    assert ran(module, x)[1] == ["convolve"]
    with Calls() as calls:
        module(x)
    assert calls.names == []


def test_one_call_serves_all_tasks() -> None:
    x, w, b = drawn(5, 2, 8, 6, 6), drawn(5, 8, 8, 3, 3), drawn(5, 8)

    def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return norm_relu_pool(F.conv2d(x, w, padding=1), b, b, 1e-3, True, True).square().sum()

    got, names = ran(vmap(grad(layer, (0, 1, 2))), x, w, b)
    assert sorted(names) == ["convolve", "correlate", "norm", "norm_backward", "transpose"]
    for a, want in zip(got, vmap(grad(layer, (0, 1, 2)))(x, w, b), strict=True):
        torch.testing.assert_close(a, want, rtol=1e-10, atol=1e-10)


def test_filters_that_serve_all_tasks_are_handed_over_once() -> None:
    x, w = drawn(5, 2, 8, 6, 6), drawn(8, 8, 3, 3)
    with Calls() as calls, Grouped(library()):
        vmap(lambda x: F.conv2d(x, w, padding=1))(x)
        vmap(grad(lambda x: F.conv2d(x, w).square().sum()))(x)
    assert calls.names == ["convolve", "convolve", "transpose"] and calls.tasks == [[5, 1]] * 3


WRONG: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fewer channels": lambda x, w, b: F.conv2d(x[:, :4], w),
    "more channels": lambda x, w, b: F.conv2d(x, w[:, :4]),
    "filters of another precision": lambda x, w, b: F.conv2d(x.float(), w),
    "a bias of another precision": lambda x, w, b: F.conv2d(x, w, b.float()),
    "a bias of another length": lambda x, w, b: F.conv2d(x, w, b[:1]),
    "an image smaller than the kernel": lambda x, w, b: F.conv2d(x[..., :2, :2], w),
    "scales for other channels": lambda x, w, b: F.batch_norm(x, None, None, b[:8], b[:8], True),
    "a scale of another precision": lambda x, w, b: F.batch_norm(x.float(), None, None, b, b, True),
    "one value in a channel": lambda x, w, b: F.batch_norm(x[:1, :, :1, :1], None, None, b, b, True),
    "eps zero": lambda x, w, b: F.batch_norm(x, None, None, b, b, True, eps=0.0),
    "a mean without a variance": lambda x, w, b: F.batch_norm(x, None, b, b, b, True),
    "a side of one, pooled": lambda x, w, b: norm_relu_pool(x[..., :1], b, b, 1e-3, True, True),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_what_torch_refuses_is_refused(mistake: str) -> None:
    """A wrong shape must not become a read beyond the end of a tensor."""
    given = drawn(2, 16, 4, 4), drawn(16, 16, 3, 3), drawn(16)
    with pytest.raises((RuntimeError, ValueError)):
        WRONG[mistake](*given)
    with pytest.raises((RuntimeError, ValueError)):
        ran(WRONG[mistake], *given)


class Unusual(nn.Module):
    """A 7x7 stem, skips (one in place), grouped and dilated convolutions, a width that fills no vector."""

    def __init__(self, outputs: int):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 7, 2, 3, bias=False), self.norm(16)
        self.a, self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False), self.norm(16)
        self.b, self.third = nn.Conv2d(16, 16, 3, padding=1), self.norm(16)
        self.grouped, self.group_norm = nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.GroupNorm(4, 16)
        self.narrow, self.fourth = nn.Conv2d(16, 12, 1), self.norm(12)
        self.dilated = nn.Conv2d(12, 8, 3, padding=2, dilation=2)
        self.last, self.plain = nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8, affine=False, track_running_stats=False)
        self.head = nn.Linear(8, outputs)

    @staticmethod
    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(self.stem(x))), 2)
        y = self.third(self.b(F.relu(self.second(self.a(x)))))
        y += x
        x = x + torch.tanh(self.group_norm(self.grouped(F.relu(y))))
        x = F.avg_pool2d(F.gelu(self.fourth(self.narrow(x))), 2, 1)
        x = self.plain(self.last(F.leaky_relu(self.dilated(x))))
        return self.head(F.adaptive_avg_pool2d(x * x, 1).flatten(1))


def unusual() -> Case:
    torch.manual_seed(0)
    module = Unusual(3).double()
    case = next(iter(problems.cases(torch.device("cpu"))))
    x = drawn(3, 12, 3, 18, 18)
    return dataclasses.replace(
        case,
        problem=dataclasses.replace(case.problem, forward=functional(module)),
        meta=Meta.of({name: p.detach() + 0.1 * drawn(*p.shape) for name, p in module.named_parameters()}),
        episodes=case.episodes._replace(support_x=x[:, :6], query_x=x[:, 6:]),
    )


WAYS: dict[str, Callable[[], tuple[Engine, int]]] = {
    "vmap": lambda: (Engine(Vectorize.vmap), 0),
    "grouped": lambda: (Engine(Vectorize.grouped), 0),
    "native by 2": lambda: (Engine(Vectorize.grouped, 2, Compile.false, library()), 0),
    "native traced": lambda: (Engine(Vectorize.grouped, None, Compile.auto, library()), TRACE_PAYS),
}


@functools.cache
def case_and_loop() -> tuple[Case, dict[Derivative, tuple[MAML, Meta]]]:
    """MAML's meta-gradient one task at a time, which is also what ``torch.autograd`` says."""
    case = unusual()
    maml = config.compose(["algo=maml"])[0].algo
    assert isinstance(maml, MAML)
    found = {}
    for derivative in (Derivative.store, Derivative.recompute):
        algorithm = dataclasses.replace(maml, hypergrad=derivative, inner_steps=1, inner_lr=0.2)
        loop, _ = MetaGradient(Engine(Vectorize.loop, 1), algorithm, case.problem)(case.meta, case.episodes)
        assert problems.relative_error(loop, check.reference(algorithm, case)) < 1e-10
        found[derivative] = algorithm, loop
    return case, found


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's vmap of a grouped convolution
@pytest.mark.parametrize(
    "derivative, way",
    [*((Derivative.store, way) for way in WAYS), *((Derivative.recompute, way) for way in ("grouped", "native by 2"))],
)
def test_meta_gradient_of_an_unusual_network(derivative: Derivative, way: str) -> None:
    case, found = case_and_loop()
    algorithm, want = found[derivative]
    engine, calls = WAYS[way]()
    with Calls() as operators:
        got, _ = MetaGradient(engine, algorithm, case.problem, calls)(case.meta, case.episodes)
    assert problems.relative_error(got, want) < 1e-10
    assert bool(operators.names) == ("native" in way)
