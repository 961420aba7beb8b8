"""Batch norm, ReLU and max-pooling as one operation, against torch's own and against the formula."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metarun.core.ops import norm_relu_pool
from metarun.engine.kernels.build import library
from metarun.engine.kernels.mode import Grouped
from metarun.engine.kernels.norm import Forward

pytestmark = pytest.mark.sampled(3, 12)

Layer = Callable[..., Tensor]
EPS = 1e-3
WHOLE = [(1, 3), (4, 4), (7, 7)]  # sides without pooling
POOLED = [(2, 2), (4, 4), (7, 7), (5, 4)]
SIGNS: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda g: g.abs() + 0.1,
    "negative": lambda g: -g.abs() - 0.1,
    "mixed": lambda g: g.abs().add(0.1) * torch.tensor([1.0, -1.0]).repeat(g.shape[-1] // 2),
}
KINDS = list(itertools.product((False, True), repeat=2))
SETTINGS = [(relu, pool, sides) for relu, pool in KINDS for sides in (POOLED if pool else WHOLE)]
every_setting = pytest.mark.parametrize("relu, pool, sides", SETTINGS)
every_kind = pytest.mark.parametrize("relu, pool", KINDS)


def native(*arguments: Any) -> Tensor:
    with Grouped(library()):
        return norm_relu_pool(*arguments)


def by_torch(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor:
    x = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
    x = F.relu(x) if relu else x
    return F.max_pool2d(x, 2) if pool else x


def written(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, relu: bool, pool: bool) -> Tensor:
    """The definition, in operations whose every derivative torch has."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    x = centred * torch.rsqrt(centred.square().mean((0, 2, 3), keepdim=True) + eps)
    x = gamma[:, None, None] * x + beta[:, None, None]
    x = x.clamp(min=0) if relu else x
    return F.max_pool2d(x, 2) if pool else x


def tensors(
    sides: tuple[int, int], sign: str = "mixed", n: int = 5, channels: int = 24, tasks: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """x, gamma, beta."""
    generator = torch.Generator().manual_seed(sum(sides) + n)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*tasks, *shape, generator=generator, dtype=torch.float64)

    return drawn(n, channels, *sides) * 2 + 1, SIGNS[sign](drawn(channels)), drawn(channels)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    error, size = (got - want).abs().max().item(), want.abs().max().item()
    assert error <= tolerance * size


def weights(like: Tensor) -> Tensor:
    """Fixed and irregular."""
    return torch.cos(torch.arange(like.numel(), dtype=torch.float64) ** 1.1).view(like.shape).to(like.dtype)


def curved(derivatives: tuple[Tensor, ...]) -> Tensor:
    """One number of them all, whose slope differs from task to task."""
    return torch.stack([torch.sin(d * weights(d)).sum() for d in derivatives]).sum()


def loss(layer: Layer, *settings: Any) -> Callable[..., Tensor]:
    def of(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        z = layer(x, gamma, beta, *settings)
        return (torch.tanh(z) * weights(z)).sum()

    return of


def product(layer: Layer, *settings: Any) -> Callable[..., Tensor]:
    """A curved function of the first derivatives; its gradient is a second derivative."""
    first = grad(loss(layer, *settings), (0, 1, 2))
    return lambda *given: curved(first(*given))


def first(layer: Layer, given: tuple[Tensor, ...], *settings: Any) -> tuple[Tensor, ...]:
    """The value and its derivatives in x, gamma and beta, by plain autograd."""
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    z = layer(*leaves, *settings)
    return z.detach(), *torch.autograd.grad((torch.tanh(z) * weights(z)).sum(), leaves)


def second(layer: Layer, given: tuple[Tensor, ...], *settings: Any) -> tuple[Tensor, ...]:
    """By double backward."""
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    z = layer(*leaves, *settings)
    once = torch.autograd.grad((torch.tanh(z) * weights(z)).sum(), leaves, create_graph=True)
    return torch.autograd.grad(curved(once), leaves)


@every_setting
@pytest.mark.parametrize("sign", SIGNS)
def test_value_and_first_derivatives(relu: bool, pool: bool, sides: tuple[int, int], sign: str) -> None:
    given = tensors(sides, sign)
    for got, want in zip(first(native, given, EPS, relu, pool), first(by_torch, given, EPS, relu, pool), strict=True):
        close(got, want, 1e-11)


@every_setting
@pytest.mark.parametrize("sign", SIGNS)
def test_second_derivatives(relu: bool, pool: bool, sides: tuple[int, int], sign: str) -> None:
    given = tensors(sides, sign)
    want = second(written, given, EPS, relu, pool)
    with Grouped(library()):
        functional = grad(product(norm_relu_pool, EPS, relu, pool), (0, 1, 2))(*given)
    for got in (second(native, given, EPS, relu, pool), functional):
        for a, b in zip(got, want, strict=True):
            close(a, b, 1e-10)


@every_kind
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 12, 20, 31, 33, 48, 96])
def test_any_number_of_channels(channels: int, dtype: torch.dtype, tolerance: float, relu: bool, pool: bool) -> None:
    given, settings = tuple(t.to(dtype) for t in tensors((5, 4), "negative", channels=channels)), (EPS, relu, pool)
    exact = tuple(t.double() for t in given)
    for got, want in zip(first(native, given, *settings), first(written, exact, *settings), strict=True):
        close(got.double(), want, tolerance)
    for got, want in zip(second(native, given, *settings), second(written, exact, *settings), strict=True):
        close(got.double(), want, tolerance)


@every_kind
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_second_derivatives_are_slopes_of_the_first(relu: bool, pool: bool, moved: int) -> None:
    given, h = tensors((5, 4)), 1e-6
    along = weights(given[moved])

    def value(step: float) -> float:
        at = tuple(t + step * along if i == moved else t for i, t in enumerate(given))
        return curved(first(native, at, EPS, relu, pool)[1:]).item()

    slope = (second(native, given, EPS, relu, pool)[moved] * along).sum().item()
    assert slope == pytest.approx((value(h) - value(-h)) / (2 * h), rel=1e-6)


@every_kind
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_derivative_of_one_derivative_alone(relu: bool, pool: bool, asked: int) -> None:
    """The others' cotangents are zero, and what needs no gradient gets none."""
    results = []
    layers: tuple[Layer, ...] = native, written
    for layer in layers:
        leaves = [t.clone().requires_grad_(i == asked) for i, t in enumerate(tensors((4, 4)))]
        value = layer(*leaves, EPS, relu, pool).tanh().square().sum()
        (once,) = torch.autograd.grad(value, leaves[asked], create_graph=True)
        results.append((once.detach(), *torch.autograd.grad((once * weights(once)).sum(), leaves[asked])))
    for got, want in zip(*results, strict=True):
        close(got, want, 1e-10)


@every_kind
@pytest.mark.parametrize("shared", [False, True])
def test_tasks_side_by_side(relu: bool, pool: bool, shared: bool) -> None:
    x, gamma, beta = tensors((5, 4), tasks=(3,))
    given = (x, gamma[0], beta[0]) if shared else (x, gamma, beta)
    dims = (0, None, None) if shared else (0, 0, 0)
    rows = [(x[t], gamma[0 if shared else t], beta[0 if shared else t]) for t in range(3)]
    settings = EPS, relu, pool
    with Grouped(library()):
        values = vmap(lambda x, gamma, beta: norm_relu_pool(x, gamma, beta, *settings), dims)(*given)
        once = vmap(grad(loss(norm_relu_pool, *settings), (0, 1, 2)), dims)(*given)
        twice = vmap(grad(product(norm_relu_pool, *settings), (0, 1, 2)), dims)(*given)
    close(values, torch.stack([by_torch(*row, *settings) for row in rows]))
    for i in range(3):
        close(once[i], torch.stack([first(by_torch, row, *settings)[1 + i] for row in rows]), 1e-11)
        close(twice[i], torch.stack([second(written, row, *settings)[i] for row in rows]), 1e-10)


@every_kind
def test_vmap_within_vmap_with_axes_anywhere(relu: bool, pool: bool) -> None:
    x, gamma, beta = tensors((4, 4), tasks=(3, 2))
    settings = EPS, relu, pool

    def one(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        return grad(loss(norm_relu_pool, *settings), (0, 1, 2))(x, gamma, beta)

    with Grouped(library()):  # beta: the same for the inner tasks; gamma: for the outer
        got = vmap(vmap(one, (2, 0, None)), (1, None, 0))(x.movedim((0, 1), (1, 3)), gamma[0], beta[:, 0])
    for a, b in itertools.product(range(3), range(2)):
        want = first(by_torch, (x[a, b], gamma[0, b], beta[a, 0]), *settings)[1:]
        for i in range(3):
            close(got[i][a, b], want[i], 1e-11)


@every_kind
def test_the_operation_itself_with_axes_anywhere(relu: bool, pool: bool) -> None:
    """On tensors that have their axis T already."""
    x, gamma, beta = tensors((4, 4), tasks=(3, 2))
    settings = EPS, relu, pool

    def one(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        return grad(lambda *a: torch.tanh(Forward.apply(*a, *settings)[0]).sum(), (0, 1, 2))(x, gamma, beta)

    got = vmap(one, (2, 1, None), 1)(x.movedim(0, 2), gamma.movedim(0, 1), beta[0])
    for a, b in itertools.product(range(3), range(2)):
        layer: Layer = by_torch
        leaves = [t.clone().requires_grad_() for t in (x[a, b], gamma[a, b], beta[0, b])]
        want = torch.autograd.grad(torch.tanh(layer(*leaves, *settings)).sum(), leaves)
        for i in range(3):
            close(got[i][b, a], want[i], 1e-11)


@every_kind
def test_vmap_over_cotangents(relu: bool, pool: bool) -> None:
    """Rows of a Jacobian: one forward pass, a batch of backward passes."""
    given = tensors((4, 4), channels=8)
    settings = EPS, relu, pool

    def rows(layer: Layer) -> Tensor:
        return torch.func.jacrev(lambda x: layer(x, *given[1:], *settings).tanh().mean((0, 2, 3)))(given[0])

    want = rows(by_torch)
    with Grouped(library()):
        close(rows(norm_relu_pool), want, 1e-11)


@every_kind
@pytest.mark.parametrize("eps", [1e-5, 0.1, 2.0])
def test_eps(relu: bool, pool: bool, eps: float) -> None:
    given = tensors((4, 4))
    given = (given[0] * 0.1, *given[1:])  # a variance that eps outweighs
    for got, want in zip(first(native, given, eps, relu, pool), first(by_torch, given, eps, relu, pool), strict=True):
        close(got, want, 1e-11)
    for got, want in zip(second(native, given, eps, relu, pool), second(written, given, eps, relu, pool), strict=True):
        close(got, want, 1e-10)


@every_kind
def test_a_large_mean(relu: bool, pool: bool) -> None:
    """A variance as mean x^2 - (mean x)^2 would lose eight of the sixteen digits."""
    x, gamma, beta = tensors((7, 7))
    given, settings = (x + 1e4, gamma, beta), (EPS, relu, pool)
    for got, want in zip(first(native, given, *settings), first(written, given, *settings), strict=True):
        close(got, want, 1e-9)
    for got, want in zip(second(native, given, *settings), second(written, given, *settings), strict=True):
        close(got, want, 1e-9)


@every_kind
@pytest.mark.parametrize("offset, tolerance", [(0, 1e-5), (100, 1e-4)])
def test_single_precision(relu: bool, pool: bool, offset: float, tolerance: float) -> None:
    x, gamma, beta = (t.float() for t in tensors((7, 7), channels=32))
    given = x + offset, gamma, beta
    exact = tuple(t.double() for t in given)
    settings = EPS, relu, pool
    for got, want in zip(first(native, given, *settings), first(written, exact, *settings), strict=True):
        assert got.dtype == torch.float32
        close(got.double(), want, tolerance)
    for got, want in zip(second(native, given, *settings), second(written, exact, *settings), strict=True):
        close(got.double(), want, tolerance)


BLANK: dict[str, Callable[[Tensor], Tensor]] = {
    "all 1.7": lambda x: torch.full_like(x, 1.7),
    "all 100.1": lambda x: torch.full_like(x, 100.1),
    "around 100": lambda x: x + 100,
    "half 0": lambda x: x * (torch.arange(x.shape[-1]) < x.shape[-1] // 2),
    "half 1.7": lambda x: torch.where(torch.arange(x.shape[-1]) < x.shape[-1] // 2, 1.7, x / 10 + 1.7),
    "a black frame": lambda x: torch.nn.functional.pad(torch.full_like(x[..., 2:, 2:], 1.7), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("relu, pool", [(False, False), (True, True)])
@pytest.mark.parametrize("n, side", [(5, 84), (25, 28)])
@pytest.mark.parametrize("images", BLANK)
def test_images_with_blank_areas_are_as_exact_as_torchs(images: str, n: int, side: int, relu: bool, pool: bool) -> None:
    """Value, first and second derivatives in float32: batch norm multiplies what is almost constant by 1/sqrt(eps)."""
    x, gamma, beta = (t.float() for t in tensors((side, side), n=n, channels=16))
    settings = 1e-5, relu, pool
    given = BLANK[images](x), gamma, beta
    exact = tuple(t.double() for t in given)
    truth = [*first(written, exact, *settings), *second(written, exact, *settings)]
    ours, torchs = ([*first(f, given, *settings), *second(f, given, *settings)] for f in (native, by_torch))
    for got, other, want in zip(ours, torchs, truth, strict=True):
        error, allowed = ((t.double() - want).norm() for t in (got, other))
        assert error <= 1.5 * allowed + 1e-7 * want.norm()


@every_kind
def test_a_third_derivative_is_refused(relu: bool, pool: bool) -> None:
    x, gamma, beta = tensors((4, 4))
    with Grouped(library()), pytest.raises(NotImplementedError, match=r"third derivative; use device.vectorize=loop"):
        grad(lambda x: grad(product(norm_relu_pool, EPS, relu, pool))(x, gamma, beta).square().sum())(x)


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(relu: bool, pool: bool, value: float) -> None:
    x, gamma, beta = tensors((4, 4))
    x[1, 2, 3, 3] = value
    got, want = (layer(x, gamma, beta, EPS, relu, pool) for layer in (native, by_torch))
    assert got[:, 2].isnan().all() and got[:, [0, 1, *range(3, 24)]].isfinite().all()
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert first(native, (x, gamma, beta), EPS, relu, pool)[1][:, 2].isnan().all()


@every_kind
def test_a_constant_input(relu: bool, pool: bool) -> None:
    x, gamma, beta = tensors((5, 4))
    given, settings = (torch.full_like(x, 3.7), gamma, beta.abs() + 1), (1e-5, relu, pool)
    for got, want in zip(first(native, given, *settings), first(written, given, *settings), strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)
    for got, want in zip(second(native, given, *settings), second(written, given, *settings), strict=True):
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-6)


@every_kind
@pytest.mark.parametrize("sign", SIGNS)
def test_of_equal_values_the_first_is_pooled(relu: bool, pool: bool, sign: str) -> None:
    """As torch does; drawings in black and white have many."""
    x, gamma, beta = tensors((7, 7), sign)
    given = x.round().clamp(0, 1), gamma, beta
    for got, want in zip(first(native, given, EPS, relu, pool), first(by_torch, given, EPS, relu, pool), strict=True):
        close(got, want, 1e-11)
    for got, want in zip(second(native, given, EPS, relu, pool), second(written, given, EPS, relu, pool), strict=True):
        close(got, want, 1e-10)


@every_kind
def test_a_scale_of_zero_makes_all_values_equal(relu: bool, pool: bool) -> None:
    x, gamma, beta = tensors((7, 7))
    given = x, gamma * (torch.arange(24) % 3 > 0), beta
    for got, want in zip(first(native, given, EPS, relu, pool), first(by_torch, given, EPS, relu, pool), strict=True):
        close(got, want, 1e-11)
    for got, want in zip(second(native, given, EPS, relu, pool), second(written, given, EPS, relu, pool), strict=True):
        close(got, want, 1e-10)


@pytest.mark.parametrize("relu", [False, True])
def test_one_pixel(relu: bool) -> None:
    given = tensors((1, 1))
    for got, want in zip(first(native, given, EPS, relu, False), first(by_torch, given, EPS, relu, False), strict=True):
        close(got, want, 1e-11)
    for got, want in zip(
        second(native, given, EPS, relu, False), second(written, given, EPS, relu, False), strict=True
    ):
        close(got, want, 1e-10)


def test_one_image() -> None:
    given = tensors((7, 7), n=1)
    for got, want in zip(first(native, given, EPS, True, True), first(by_torch, given, EPS, True, True), strict=True):
        close(got, want, 1e-11)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "sides swapped": lambda t: t.mT.contiguous().mT,
    "sliced": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "one image": lambda t: t[:1].expand_as(t),
    "one row": lambda t: t[:, :, :1].expand_as(t),
}


@every_kind
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(relu: bool, pool: bool, layout: str) -> None:
    x, gamma, beta = tensors((4, 4))
    laid = LAYOUTS[layout](x), torch.stack([gamma, beta], 1)[:, 0], beta[:1].expand_as(beta)
    same = tuple(t.clone(memory_format=torch.contiguous_format) for t in laid)
    settings = EPS, relu, pool
    with Grouped(library()):
        once = grad(loss(norm_relu_pool, *settings), (0, 1, 2))
        twice = grad(product(norm_relu_pool, *settings), (0, 1, 2))
        for fn in (once, twice):
            for got, want in zip(fn(*laid), fn(*same), strict=True):
                assert torch.equal(got, want)
    close(native(*laid, *settings), by_torch(*laid, *settings))


@every_kind
@pytest.mark.parametrize("tasks", [1, 3])
def test_two_threads_give_the_same_bits(relu: bool, pool: bool, tasks: int) -> None:
    given = tensors((7, 7), tasks=(tasks,))
    before = torch.get_num_threads()

    def derivatives() -> tuple[Tensor, ...]:
        with Grouped(library()):
            return vmap(grad(product(norm_relu_pool, EPS, relu, pool), (0, 1, 2)))(*given)

    alone = derivatives()
    torch.set_num_threads(2)
    try:
        both = derivatives()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, both, strict=True))
