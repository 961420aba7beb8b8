"""Task-batched convolutions against ``torch.conv2d``, one task at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from metarun.engine.kernels.build import library
from metarun.engine.kernels.conv import Convolve, Correlate, Geometry, Transpose, conv2d, route

pytestmark = pytest.mark.sampled(3, 12)

SIDES = [(5, 7), (2, 2), (1, 1), (3, 3), (14, 14), (7, 7), (4, 6)]


class Case(NamedTuple):
    route: str
    kernel: int
    stride: int
    padding: int
    sides: tuple[int, int]
    channels: int = 8
    outputs: int = 8
    n: int = 2
    tasks: int = 3
    shared: bool = False  # one set of filters for all tasks

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.kernel, self.stride, self.padding, self.sides, self.route)

    @property
    def out(self) -> list[int]:
        return [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in self.sides]

    def __str__(self) -> str:
        h, w = self.sides
        x, y = f"{self.tasks}x{self.n}x{self.channels}x{h}x{w}", f"{self.outputs}{'s' if self.shared else ''}"
        return f"{self.route}-k{self.kernel}s{self.stride}p{self.padding}-{x}-{y}"


def cases() -> Iterator[Case]:
    """Every geometry; the other sizes take turns, so that each pair of them occurs."""
    i = 0
    for which, kernel, stride, padding, sides in itertools.product(
        ("columns", "torch"), (1, 3, 5, 7), (1, 2), (0, 1, 2), SIDES
    ):
        if min(sides) + 2 * padding < kernel:
            continue
        outputs = (8, 16, 24) if which == "columns" else (8, 5, 24)
        yield Case(
            *(which, kernel, stride, padding, sides),
            channels=(1, 3, 8, 16, 24)[i % 5],
            outputs=outputs[i % 3],
            n=(1, 2, 3, 1, 4, 5, 2)[i % 7],
            tasks=(1, 3)[i % 2],
            shared=i // 2 % 2 == 0,
        )
        i += 1
    for channels, filters, sides in itertools.product((8, 16, 24), (8, 16, 24), SIDES):
        tasks, n = (1, 3)[i // 2 % 2], (1, 2, 5, 3)[i % 4]
        yield Case("winograd", 3, 1, 1, sides, channels, filters, n, tasks, shared=i % 2 == 0)
        i += 1


FILTERS = (1, 2, 3, 5, 7, 12, 20, 31, 33, 48, 96)


def widths() -> Iterator[Case]:
    """Numbers of channels that do not fill vectors, or just do."""
    for i, outputs in enumerate(FILTERS):
        for channels in (1, 3, outputs):
            yield Case("columns", 3, 2, 1, (5, 7), channels, outputs, n=3, tasks=2, shared=i % 2 == 0)
            yield Case("winograd", 3, 1, 1, (5, 7), channels, outputs, n=3, tasks=2, shared=i % 2 == 1)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


def tensors(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x, w, dy."""
    sets = 1 if case.shared else case.tasks
    x = drawn(case.tasks, case.n, case.channels, *case.sides, dtype=dtype)
    w = drawn(sets, case.outputs, case.channels, case.kernel, case.kernel, dtype=dtype)
    return x, w, drawn(case.tasks, case.n, case.outputs, *case.out, dtype=dtype)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    error, size = (got - want).abs().max().item(), want.abs().max().item()
    assert error <= tolerance * size


def one_by_one(case: Case, x: Tensor, w: Tensor, dy: Tensor) -> list[Tensor]:
    """y, dx, dw [T, ...]."""
    rows = []
    for t in range(case.tasks):
        a, b = x[t].clone().requires_grad_(), w[0 if case.shared else t].clone().requires_grad_()
        y = torch.conv2d(a, b, None, case.stride, case.padding)
        rows.append((y.detach(), *torch.autograd.grad(y, (a, b), dy[t])))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def by_kernels(case: Case, x: Tensor, w: Tensor, dy: Tensor) -> list[Tensor]:
    g = case.geometry
    return [Convolve.apply(x, w, g), Transpose.apply(dy, w, g), Correlate.apply(x, dy, g)]


@pytest.mark.parametrize("case", [*cases(), *widths()], ids=str)
def test_all_three_equal_torch(case: Case) -> None:
    given = tensors(case)
    for got, want in zip(by_kernels(case, *given), one_by_one(case, *given), strict=True):
        close(got, want)


@pytest.mark.parametrize(
    "case",
    [
        Case("winograd", 3, 1, 1, (14, 14), 16, 32),
        Case("winograd", 3, 1, 1, (5, 7), 48, 16, n=3, shared=True),
        Case("columns", 3, 1, 1, (7, 7), 1, 16, tasks=1),
        Case("columns", 3, 2, 1, (14, 14), 16, 48),
        Case("columns", 5, 2, 0, (5, 7), 3, 16, shared=True),
        Case("columns", 1, 1, 0, (4, 6), 24, 32),
        Case("torch", 3, 1, 1, (7, 7), 3, 5),
        *widths(),
    ],
    ids=str,
)
def test_in_single_precision(case: Case) -> None:
    given = tensors(case, torch.float32)
    want = one_by_one(case, *(tensor.double() for tensor in given))
    for got, exact in zip(by_kernels(case, *given), want, strict=True):
        assert got.dtype == torch.float32
        close(got.double(), exact, 1e-5)


def func(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """The convolution of one task, x [N, C, H, W] with w [K, C, k, k]."""
    return lambda x, w: Convolve.apply(x[None], w[None], case.geometry)[0]


def plain(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: torch.conv2d(x, w, None, case.stride, case.padding)


def losses(conv: Callable[[Tensor, Tensor], Tensor], c: Tensor) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """A loss, then what its first derivatives add up to under a curved function, then its second ones."""

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return (torch.tanh(conv(x, w)) * c).mean()

    def curved(inner: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def outer(x: Tensor, w: Tensor) -> Tensor:
            dx, dw = grad(inner, (0, 1))(x, w)
            return torch.sin(dx + 0.3).sum() + torch.sin(dw + 0.3).sum()

        return outer

    return [loss, curved(loss), curved(curved(loss))]


def autograd_losses(case: Case, x: Tensor, w: Tensor, c: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Derivatives in x and w of the same three, by ``torch.conv2d`` and double backward."""
    x, w = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    value = (torch.tanh(plain(case)(x, w)) * c).mean()
    for _ in range(3):
        dx, dw = torch.autograd.grad(value, (x, w), create_graph=True)
        yield dx.detach(), dw.detach()
        value = torch.sin(dx + 0.3).sum() + torch.sin(dw + 0.3).sum()


CURVED = [
    Case("winograd", 3, 1, 1, (5, 7), 8, 16),
    Case("winograd", 3, 1, 1, (4, 4), 16, 8, n=1),
    Case("columns", 3, 1, 1, (7, 7), 1, 8),
    Case("columns", 3, 2, 1, (5, 7), 3, 16),
    Case("columns", 5, 2, 2, (5, 7), 8, 8),
    Case("columns", 7, 2, 2, (7, 5), 3, 8, n=1),
    Case("columns", 1, 1, 0, (3, 3), 16, 24),
    Case("winograd", 3, 1, 1, (4, 5), 5, 11, n=1),
    Case("columns", 3, 2, 1, (5, 4), 7, 3),
    Case("columns", 1, 2, 1, (2, 2), 8, 8),
    Case("torch", 3, 1, 1, (5, 4), 3, 5),
    Case("torch", 3, 2, 0, (7, 5), 8, 8),
]
curved_cases = pytest.mark.parametrize("case", CURVED, ids=str)


@curved_cases
@pytest.mark.parametrize("shared", [False, True])
def test_derivatives_to_the_third(case: Case, shared: bool) -> None:
    """Inside of vmap: each task's own derivatives, also in filters that all tasks begin with."""
    x, w, c = tensors(case._replace(shared=shared))
    w = w[0] if shared else w
    dims = (0, None if shared else 0, 0)
    want = [list(autograd_losses(case, x[t], w if shared else w[t], c[t])) for t in range(case.tasks)]
    for order in range(3):
        got = vmap(lambda x, w, c, order=order: grad(losses(func(case), c)[order], (0, 1))(x, w), dims)(x, w, c)
        for i in (0, 1):
            close(got[i], torch.stack([row[order][i] for row in want]), 1e-11)


@curved_cases
@pytest.mark.parametrize("x_dim, w_dim", [(0, 0), (0, None), (None, 0)])
def test_derivatives_outside_of_vmap(case: Case, x_dim: int | None, w_dim: int | None) -> None:
    """What served all tasks gets the sum of their gradients."""
    x, w, c = tensors(case)
    given = x if x_dim == 0 else x[0], w if w_dim == 0 else w[0]

    def stacked(x: Tensor, w: Tensor) -> Tensor:
        rows = [(x if x_dim is None else x[t], w if w_dim is None else w[t]) for t in range(case.tasks)]
        return torch.stack([plain(case)(*row) for row in rows])

    for order in range(3):
        got = grad(losses(vmap(func(case), (x_dim, w_dim)), c)[order], (0, 1))(*given)
        for a, b in zip(got, grad(losses(stacked, c)[order], (0, 1))(*given), strict=True):
            close(a, b, 1e-11)


@pytest.mark.parametrize("needed", [(0,), (1,)])
@pytest.mark.parametrize("case", [CURVED[0], CURVED[3], CURVED[10]], ids=str)
def test_derivatives_in_one_alone(case: Case, needed: tuple[int]) -> None:
    x, w, c = tensors(case._replace(tasks=1))
    results = []
    for conv in (func(case), plain(case)):
        given = [x[0].clone(), w[0].clone()]
        given[needed[0]].requires_grad_()
        (first,) = torch.autograd.grad((conv(*given).tanh() * c[0]).mean(), given[needed[0]], create_graph=True)
        results.append((first.detach(), *torch.autograd.grad(first.sin().sum(), given[needed[0]])))
    for got, want in zip(*results, strict=True):
        close(got, want)


AXES = list(itertools.product((0, None), repeat=4))[:-1]  # the last maps nothing


@curved_cases
@pytest.mark.parametrize("axes", AXES)
def test_vmap_within_vmap(case: Case, axes: tuple[Any, ...]) -> None:
    """x and w each with the outer axis, the inner, both or none."""
    x_dims, w_dims = axes[:2], axes[2:]
    outer = x_dims[0] == 0 or w_dims[0] == 0
    inner = x_dims[1] == 0 or w_dims[1] == 0

    def twice(fn: Callable[..., Any]) -> Callable[..., Any]:
        fn = vmap(fn, (x_dims[1], w_dims[1])) if inner else fn
        return vmap(fn, (x_dims[0], w_dims[0])) if outer else fn

    def leading(dims: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(size for size, dim in zip((3, 2), dims, strict=True) if dim == 0)

    x = drawn(*leading(x_dims), case.n, case.channels, *case.sides)
    w = drawn(*leading(w_dims), case.outputs, case.channels, case.kernel, case.kernel)
    close(twice(func(case))(x, w), twice(plain(case))(x, w))

    def slopes(conv: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        def loss(x: Tensor, w: Tensor) -> Tensor:
            return conv(x, w).square().mean()

        return twice(grad(loss, (0, 1)))(x, w)

    for got, want in zip(slopes(func(case)), slopes(plain(case)), strict=True):
        close(got, want)


def test_mapped_axes_anywhere() -> None:
    case = CURVED[3]
    x, w, _ = tensors(case)
    got = vmap(func(case), (3, 2), 1)(x.movedim(0, 3), w.movedim(0, 2))
    close(got.movedim(1, 0), torch.stack([plain(case)(*row) for row in zip(x, w, strict=True)]))


@pytest.mark.parametrize("case", [CURVED[0], CURVED[3], CURVED[10]], ids=str)
def test_the_operations_themselves_with_axes_anywhere(case: Case) -> None:
    """On tensors that have their axis T already."""
    g, pairs = case.geometry, list(itertools.combinations(tensors(case), 2))
    for function, (a, b) in zip((Convolve, Correlate, Transpose), (pairs[0], pairs[1], pairs[2][::-1]), strict=True):
        a, b = torch.stack([a, 2 * a]), torch.stack([b, b + 1])
        want = torch.stack([function.apply(*row, g) for row in zip(a, b, strict=True)])
        close(
            vmap(lambda a, b, f=function: f.apply(a, b, g), (3, 2), 1)(a.movedim(0, 3), b.movedim(0, 2)).movedim(1, 0),
            want,
        )
        close(vmap(lambda a, b, f=function: f.apply(a, b, g), (None, 2))(a[0], b.movedim(0, 2))[0], want[0])
        close(vmap(lambda a, b, f=function: f.apply(a, b, g), (1, None))(a.movedim(0, 1), b[0])[0], want[0])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda t: t.movedim(2, -1).contiguous().movedim(-1, 2),
    "sides swapped": lambda t: t.mT.contiguous().mT,
    "reversed": lambda t: t.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
    "sliced": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "inner": lambda t: torch.nn.functional.pad(t, (1, 2, 2, 1))[..., 2:-1, 1:-2],
    "one task": lambda t: t[:1].expand_as(t),
    "one image": lambda t: t[:, :1].expand_as(t),
    "one channel": lambda t: t[:, :, :1].expand_as(t),
    "one number": lambda t: t[:1, :1, :1, :1, :1].expand_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "case", [CURVED[0], CURVED[2], CURVED[3], CURVED[6], CURVED[7], CURVED[8], CURVED[10]], ids=str
)
def test_memory_layout_does_not_matter(case: Case, layout: str) -> None:
    given = [LAYOUTS[layout](tensor) for tensor in tensors(case)]
    for got, want in zip(by_kernels(case, *given), one_by_one(case, *given), strict=True):
        close(got, want)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("outputs", [16, 5])  # by the kernels, and by torch
def test_bias(outputs: int, mapped: bool) -> None:
    x, w, b = drawn(3, 2, 8, 5, 4), drawn(3, outputs, 8, 3, 3), drawn(3, outputs)
    dims = (0, 0, 0 if mapped else None)
    given = x, w, b if mapped else b[0]

    def kernels(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return conv2d(x, w, b, 1, 1, library())

    def by_torch(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.conv2d(x, w, b, 1, 1)

    def slopes(conv: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return vmap(grad(lambda *a: conv(*a).tanh().square().mean(), (0, 1, 2)), dims)(*given)

    close(vmap(kernels, dims)(*given), vmap(by_torch, dims)(*given))
    for got, want in zip(slopes(kernels), slopes(by_torch), strict=True):
        close(got, want)


@pytest.fixture
def two_threads() -> Iterator[Callable[[], None]]:
    before = torch.get_num_threads()
    yield lambda: torch.set_num_threads(2)
    torch.set_num_threads(before)


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("case", [CURVED[0], CURVED[3]], ids=str)
def test_threads(case: Case, tasks: int, shared: bool, two_threads: Callable[[], None]) -> None:
    """Sums are cut in the same places however many threads and tasks there are."""
    case = case._replace(sides=(28, 28), n=9, tasks=tasks, shared=shared)
    given = tensors(case)
    alone = by_kernels(case, *given)
    two_threads()
    rows = [
        by_kernels(case, x[None], w[None], dy[None])
        for x, w, dy in zip(given[0], given[1].expand(tasks, *given[1].shape[1:]), given[2], strict=True)
    ]
    for i, want in enumerate(alone):
        assert torch.equal(torch.cat([row[i] for row in rows]), want)
    for got, want in zip(by_kernels(case, *given), alone, strict=True):
        assert torch.equal(got, want)


def test_route() -> None:
    native = library()

    def chosen(channels: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1, side: int = 14) -> str:
        x, w = torch.empty(2, channels, side, side), torch.empty(outputs, channels, kernel, kernel)
        return route(x, w, stride, padding, native)

    wide = native.width
    assert chosen(wide, 2 * wide) == chosen(wide, wide, side=7) == "winograd"
    assert chosen(wide, wide, side=1) == chosen(wide, wide, side=3) == "columns"  # most of each tile would be waste
    assert chosen(wide + 1, wide) == chosen(wide, wide + 1) == chosen(4, 5) == "winograd"
    assert chosen(1, wide) == chosen(3, wide) == chosen(3, 3) == "columns"  # the transforms would cost more
    assert (
        chosen(wide, wide, stride=2) == chosen(wide, wide, padding=0) == chosen(wide, wide, 5, padding=2) == "columns"
    )
    assert route(torch.empty(2, wide, 14, 14), torch.empty(wide, wide, 3, 3), 1, 1, None) == "torch"
    half = torch.empty(2, wide, 14, 14).double(), torch.empty(wide // 2, wide, 3, 3).double()
    assert route(*half, 1, 1, native) == "winograd"  # vectors hold half as many doubles


def test_nothing_to_do() -> None:
    """An empty batch: empty results, and no gradient for the filters."""
    for case in (CURVED[0], CURVED[3], CURVED[7], CURVED[10]):
        y, dx, dw = by_kernels(case, *tensors(case._replace(n=0)))
        assert y.shape[1] == dx.shape[1] == 0 and dw.shape[0] == case.tasks
        assert not dw.any()
