"""A trace gives what the function gives, to the bit, whatever comes later in the place of its examples."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from metarun.compat import torch_pytree as pytree
from metarun.compat.torch_dispatch import TorchDispatchMode
from metarun.core.episode import Episode
from metarun.engine.over_tasks import TRACE_PAYS, Compile, Engine, OverTasks, Vectorize
from metarun.engine.trace import MACHINE_CODE, ROUNDING, Replay, Trace, distance


class Calls(TorchDispatchMode):
    """The operators that run within, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def operators(fn: Callable[..., Any], *given: Any) -> list[str]:
    with Calls() as calls:
        fn(*given)
    return calls.names


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def same(got: Any, want: Any) -> None:
    leaves, structure = pytree.tree_flatten(got)
    expected, other = pytree.tree_flatten(want)
    assert structure == other
    for a, b in zip(leaves, expected, strict=True):
        if isinstance(b, Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b)
        else:
            assert a == b


def meta_gradient(params: dict[str, Tensor], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Through one step of descent, for tasks side by side: convolution, batch norm, pooling, a linear head."""

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        y = F.batch_norm(F.conv2d(x, params["w"], padding=1), None, None, params["g"], params["b"], training=True)
        return F.log_softmax(F.max_pool2d(F.relu(y), 2).flatten(1) @ params["head"], -1)[:, 0].mean()

    def one(x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        def outer(params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            moved = {n: p - 0.1 * d for (n, p), d in zip(params.items(), grad(loss)(params, x).values(), strict=True)}
            value = loss(moved, x * x)
            return value, value.detach()

        return grad(outer, has_aux=True)(params)

    return vmap(one)(x)


def problem(seed: int) -> tuple[dict[str, Tensor], Tensor]:
    shapes = {"w": (4, 2, 3, 3), "g": (4,), "b": (4,), "head": (16, 3)}
    return {name: drawn(*shape, seed=seed) for name, shape in shapes.items()}, drawn(3, 5, 2, 4, 4, seed=seed)


def test_nested_transforms_to_the_bit() -> None:
    trace = Trace(meta_gradient, *problem(0))
    for seed in (0, 1, 2):
        same(trace(*problem(seed)), meta_gradient(*problem(seed)))
    assert len(operators(trace, *problem(0))) < len(operators(meta_gradient, *problem(0)))


def test_any_nest() -> None:
    def fn(a: Any, b: Any) -> Any:
        episode, (x, [y]) = a["episode"], b
        return {"e": Episode(*(2 * field for field in episode)), "sums": [x + y, (y, None)], "n": 3.0}, x - y

    def nest(seed: int) -> tuple[Any, Any]:
        return {"episode": Episode(*(drawn(2, seed=seed + i) for i in range(5)))}, (drawn(3, seed=seed), [drawn(1)])

    got = Trace(fn, *nest(0))(*nest(7))
    assert isinstance(got[0]["e"], Episode)
    same(got, fn(*nest(7)))


def test_precisions_are_kept() -> None:
    def fn(x: Tensor, n: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return x * n, n * 1, n * 1.0, n + b, ~b, x.float(), x.mean() * n.sum()

    examples = drawn(3), torch.arange(3), torch.tensor([True, False, True])
    later = drawn(3, seed=1), torch.tensor([5, -2, 0]), torch.tensor([False, False, True])
    same(Trace(fn, *examples)(*later), fn(*later))


def test_constants_from_closures() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double().eval()
    module.get_buffer("1.running_mean").fill_(0.5)
    outside = drawn(2)

    def fn(x: Tensor) -> Tensor:
        return module(x) * outside + torch.tensor([1.0, 2.0])

    trace = Trace(fn, drawn(4, 3))
    with torch.no_grad():
        same(trace(drawn(4, 3, seed=1)), fn(drawn(4, 3, seed=1)))
    assert torch.equal(outside, drawn(2))


# What a tensor of this shape may look like in memory.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.t().contiguous().t(),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "second half": lambda t: torch.cat([t, t])[len(t) :],
    "a row": lambda t: t[:1].expand_as(t),
    "a column": lambda t: t[:, :1].expand_as(t),
    "a number": lambda t: t[:1, :1].expand_as(t),
}
# Functions whose traces are different for different memory.
VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "transposition": lambda x: x.t() * torch.arange(16).view(4, 4),
    "its copy": lambda x: x.t().contiguous(),
    "flat": lambda x: x.reshape(-1) * torch.arange(16),
    "flat and turned": lambda x: x.t().reshape(2, 8) - x.reshape(2, 8),
    "there and back": lambda x: x.view(4, 2, 2).transpose(1, 2).transpose(2, 1).reshape(4, 4) + x.permute(1, 0),
    "windows": lambda x: x.unfold(0, 2, 1).sum(-1),
    "strides by hand": lambda x: x.as_strided((2, 2), x.stride()) + x.diagonal()[:2],
    "batched": lambda x: vmap(lambda row: row.view(2, 2).t().reshape(-1) * row)(x),
    "product": lambda x: x.t() @ x,
}


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("view", VIEWS)
def test_later_calls_may_lie_otherwise_in_memory(first: str, view: str) -> None:
    def numbers(seed: int, layout: str, dtype: torch.dtype) -> Tensor:  # whole, so that no order of summing rounds
        return LAYOUTS[layout]((100 * drawn(4, 4, seed=seed)).round().to(dtype))

    for dtype in (torch.float32, torch.float64):
        trace = Trace(VIEWS[view], numbers(0, first, dtype))
        for later in LAYOUTS:
            argument = numbers(1, later, dtype)
            got, want = trace(argument), VIEWS[view](argument)
            assert got.dtype == want.dtype and torch.equal(got, want), (later, dtype)
            assert torch.equal(argument, numbers(1, later, dtype))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": F.tanh,
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "roll": lambda x: x.roll(1, 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_that_tracing_mistakes(name: str, channels_last: bool) -> None:
    """Of some derivatives torch's tracing states other strides than they have, where their two arguments' differ."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    other = torch.contiguous_format if channels_last else torch.channels_last

    def fn(x: Tensor, g: Tensor) -> Tensor:
        d = grad(lambda x: (ACTIVATIONS[name](x) * g).sum())(x)
        return d.reshape(2, -1) * d.transpose(1, 2).reshape(2, -1)

    def given(seed: int) -> tuple[Tensor, Tensor]:
        x, g = drawn(2, 3, 4, 5, seed=seed), drawn(2, 3, 4, 5, seed=seed + 1)
        return x.contiguous(memory_format=memory), g.contiguous(memory_format=other)

    same(Trace(fn, *given(0))(*given(2)), fn(*given(2)))


def test_tasks_are_run_whatever_tracing_mistakes() -> None:
    """A network with ELU between two convolutions, whose trace must run where it was foreseen otherwise."""
    x = drawn(3, 4, 3, 6, 6)
    episodes = Episode(x, x, x, x, torch.arange(3))
    meta = {"a": drawn(12, 3, 1, 1), "b": drawn(8, 12, 3, 3)}

    def loss(meta: dict[str, Tensor], x: Tensor) -> Tensor:
        return F.elu(F.conv2d(F.conv2d(x, meta["a"]), meta["b"], padding=2, dilation=2)).square().mean((-2, -1)).sum()

    def one(meta: dict[str, Tensor], task: Episode) -> dict[str, Tensor]:
        def outer(meta: dict[str, Tensor]) -> Tensor:
            slopes = grad(loss)(meta, task.support_x)
            return loss({name: p - 1e-3 * slopes[name] for name, p in meta.items()}, task.query_x)

        return grad(outer)(meta)

    (want,) = OverTasks(Engine(Vectorize.vmap), one)(meta, episodes)
    traced = OverTasks(Engine(Vectorize.vmap, None, Compile.auto), one, TRACE_PAYS)
    for _ in range(2):
        (got,) = traced(meta, episodes)  # a warning, that it runs untraced, would be an error
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=1e-12, atol=1e-12)


def test_control_flow_that_looks_at_values_is_refused() -> None:
    limit = torch.tensor(1.0)
    for fn in (
        lambda x: x * 2 if x.sum() > 0 else x * 3,
        lambda x: x * 2 if limit > 0 else x * 3,
        lambda x: torch.stack([x * i for i in range(int(x[0].item()))]),
        lambda x: x * len(x[x > 0].tolist()),
    ):
        with pytest.raises(RuntimeError):
            Trace(fn, torch.ones(3))


def test_control_flow_that_looks_at_shapes_is_fine() -> None:
    def fn(x: Tensor) -> Tensor:
        for _ in range(x.shape[0]):
            x = x * 2 if x.ndim == 1 else x[0]
        return x

    same(Trace(fn, drawn(3))(drawn(3, seed=1)), fn(drawn(3, seed=1)))


def test_it_raises_what_the_function_raises() -> None:
    def fn(x: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        Trace(fn, drawn(3))


def test_what_is_computed_twice_is_computed_once() -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        first, second = (torch.sin(x @ w) for _ in range(2))
        return (first + 1) * (second + 2)

    trace = Trace(fn, drawn(3, 3), drawn(3, 3))
    names = operators(trace, drawn(3, 3), drawn(3, 3))
    assert names.count("aten::mm") == names.count("aten::sin") == 1
    same(trace(drawn(3, 3, seed=1), drawn(3, 3)), fn(drawn(3, 3, seed=1), drawn(3, 3)))


def test_what_nothing_asks_for_is_not_computed() -> None:
    def fn(x: Tensor) -> Tensor:
        torch.sin(x) @ x
        return x + 1

    assert operators(Trace(fn, drawn(3, 3)), drawn(3, 3)) == ["aten::add.Tensor"]


def test_views_that_end_where_they_began_are_not_taken() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        return (y.t().t() + y.unsqueeze(0).squeeze(0) + y.view(2, 6).view(3, 4)).detach() + y.t().permute(1, 0)

    trace = Trace(fn, drawn(3, 4))
    assert set(operators(trace, drawn(3, 4))) == {"aten::exp", "aten::add.Tensor"}
    same(trace(drawn(3, 4, seed=1)), fn(drawn(3, 4, seed=1)))


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "twice": lambda x: ((x * 2).add_(1), (x * 2).add_(1)),
    "before": lambda x: (torch.relu_(x * 2) + 0, x * 2 + 1),
    "between": lambda x: (x * 2 + (x * 2).mul_(3), (x * 2).exp()),
    "after": lambda x: (lambda first, second: (first * 1, torch.relu_(second) + 0, first * 1))(x * 2, x * 2),
    "a view": lambda x: (lambda y: (y[1:].neg_(), y * 1, x * 2 + 1))(x * 2),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operations_reach_nothing_else(name: str) -> None:
    """Neither an equal value, computed apart, nor the argument."""
    fn = IN_PLACE[name]
    trace = Trace(fn, drawn(5))
    for seed in (1, 2):
        x = drawn(5, seed=seed)
        same(trace(x), fn(drawn(5, seed=seed)))
        same(x, drawn(5, seed=seed))


def test_results_that_are_equal_are_two() -> None:
    first, second = Trace(lambda x: (x * 2, x * 2), drawn(3))(drawn(3))
    first.zero_()
    assert torch.equal(second, drawn(3) * 2)


def test_results_may_be_arguments_and_views_of_them() -> None:
    def fn(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x, x.t(), y[0], x.view(-1), x + 0, y

    trace = Trace(fn, drawn(2, 3), drawn(2))
    x, y = drawn(2, 3, seed=1), drawn(2, seed=1)
    got = trace(x, y)
    same(got, fn(x, y))
    again = trace(drawn(2, 3, seed=2), drawn(2, seed=2))  # leaves what was returned before alone
    same(got, fn(x, y))
    same(again, fn(drawn(2, 3, seed=2), drawn(2, seed=2)))


def test_no_gradient_graph_is_kept() -> None:
    weight = nn.Parameter(drawn(3))

    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        return x * weight, (x * weight).sum()

    example, later = drawn(3).requires_grad_(), drawn(3, seed=1).requires_grad_()
    got = Trace(fn, example)(later)
    assert not any(leaf.requires_grad or leaf.grad_fn for leaf in got)
    same(got, tuple(leaf.detach() for leaf in fn(later)))
    assert torch.is_grad_enabled()


def test_random_numbers_are_drawn_anew() -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        return x + torch.rand(3), x + torch.rand(3)

    trace = Trace(fn, torch.zeros(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        got = trace(torch.zeros(3))
        torch.manual_seed(1)
        same(got, fn(torch.zeros(3)))
        assert not torch.equal(*got) and not torch.equal(trace(torch.zeros(3))[0], got[0])


@pytest.mark.parametrize("error, said", [(RuntimeError("no compiler\nmore"), "no compiler"), (OSError(), "OSError")])
def test_what_cannot_be_compiled_stays_a_trace(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("torch._inductor.compile", refuse)
    trace = Trace(lambda x: x * 2 + 1, drawn(3))
    with pytest.warns(UserWarning, match=rf"^device.compile: compiling failed \({said}\); the step runs uncompiled"):
        trace.compile(drawn(3))
    same(trace(drawn(3, seed=1)), drawn(3, seed=1) * 2 + 1)


def test_what_compiles_but_does_not_run_stays_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: Any, **__: Any) -> Callable[..., None]:
        def run(*_: Tensor) -> None:
            raise OSError("cannot load")

        return run

    monkeypatch.setattr("torch._inductor.compile", compiled)
    trace = Trace(lambda x: x * 2 + 1, drawn(3))
    with pytest.warns(UserWarning, match="cannot load"):
        trace.compile(drawn(3))
    same(trace(drawn(3, seed=1)), drawn(3, seed=1) * 2 + 1)


def replayed(fn: Callable[..., Any], *examples: Any) -> Replay:
    return Replay(fn, Trace(fn, *examples))


def test_a_replay_is_compared_at_powers_of_two() -> None:
    ran: list[int] = []

    def fn(x: Tensor) -> Tensor:
        ran.append(call)
        return x.sin() / 0  # infinities and NaN are results like others

    call = 0
    replay = replayed(fn, drawn(3))
    ran.clear()
    for call in range(1, 70):
        same(replay(drawn(3, seed=call)).nan_to_num(), fn(drawn(3, seed=call)).nan_to_num())
    assert [call for call in range(1, 70) if ran.count(call) == 2] == [2, 4, 8, 16, 32, 64]


class Frozen(nn.Module):
    """A network whose outputs depend on more than its arguments, in ways that a trace does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.scale, self.calls, self.random, self.steps = 1.0, 0, random.Random(0), 3

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale + self.get_buffer("shift")
        for _ in range(self.steps):
            y = y.sin()
        return y if self.training else -y


def put_buffer(module: Frozen) -> None:
    module.shift = torch.ones((), dtype=torch.float64)


STATE: dict[str, Callable[[Frozen], Any]] = {
    "a number": lambda module: setattr(module, "scale", 1.001),
    "a mode": lambda module: module.eval(),
    "a buffer put in place": put_buffer,
    "the length of a loop": lambda module: setattr(module, "steps", 4),
    "another shape": lambda module: setattr(module, "scale", torch.ones(2, 3, dtype=torch.float64)),
}


@pytest.mark.parametrize("change", STATE)
@pytest.mark.parametrize("at, found", [(2, 2), (3, 4), (4, 4), (9, 16)])
def test_frozen_state_is_found_at_the_next_comparison(change: str, at: int, found: int) -> None:
    module, x = Frozen(), drawn(3)
    replay = replayed(module, x)
    for call in range(1, 20):
        if call == at:
            STATE[change](module)
        if call == found:
            with pytest.warns(UserWarning, match=rf"^device.compile: .*at call {found} .*device.compile=false") as said:
                got = replay(x)
            assert len(said) == 1
        else:
            got = replay(x)  # a second warning would be an error
        if call < at or call >= found:
            same(got, module(x))
    module.train().scale = 7.0
    same(replay(x), module(x))  # for good


def test_a_buffer_written_in_place_is_no_frozen_state() -> None:
    module, x = Frozen(), drawn(3)
    replay = replayed(module, x)
    for call in range(1, 5):
        module.get_buffer("shift").fill_(call)
        same(replay(x), module(x))


def count(module: Frozen, x: Tensor) -> Tensor:
    module.calls += 1
    return x * module.calls


IMPURE: dict[str, Callable[[Frozen, Tensor], Tensor]] = {
    "a counter": count,
    "random numbers": lambda module, x: x * module.random.random(),
}


@pytest.mark.parametrize("what", IMPURE)
def test_what_changes_with_every_call_is_found_at_once(what: str) -> None:
    module, x = Frozen(), drawn(3)
    replay = replayed(lambda x: IMPURE[what](module, x), x)
    replay(x)
    with pytest.warns(UserWarning, match="at call 2 "):
        second = replay(x)
    assert not torch.equal(second, replay(x))


def test_results_that_vary_by_themselves_are_no_frozen_state() -> None:
    """As a GPU's sums do; here random numbers that the trace draws anew."""
    replay = replayed(lambda x: x + torch.rand(3), drawn(3))
    for _ in range(8):
        replay(drawn(3))


@pytest.mark.parametrize("off, kept", [(1e-6, True), (1.0, False), (math.nan, False)])
def test_machine_code_that_is_wrong_is_not_used(off: float, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(graph: Any, *_: Any, **__: Any) -> Callable[..., Any]:
        return lambda *leaves: [leaf * (1 + off) for leaf in graph(*leaves)]

    monkeypatch.setattr("torch._inductor.compile", compiled)

    def fn(x: Tensor) -> Tensor:
        return x.float().exp()

    replay = replayed(fn, drawn(3))
    assert replay.trace is not None
    replay.trace.compile(drawn(3))
    for call in range(1, 9):
        if call == 2 and not kept:
            with pytest.warns(
                UserWarning, match="^device.compile: TorchInductor's machine code .* at call 2; the trace"
            ):
                same(replay(drawn(3)), fn(drawn(3)))
        else:
            assert torch.equal(replay(drawn(3)), fn(drawn(3))) is (not kept and call > 2)


def test_distance() -> None:
    x = torch.tensor([3.0, 4.0])
    eps = torch.finfo(x.dtype).eps
    assert distance({"a": x, "b": (1, None)}, {"a": x.clone(), "b": (1, None)}) == 0
    assert distance(x * (1 + 8 * eps), x) == pytest.approx(8, rel=0.01)
    assert distance(x.double() * (1 + 1e-9), x.double()) == pytest.approx(1e-9 / 2.22e-16, rel=0.01)
    nan, inf = torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, 1.0])
    assert distance(nan, nan) == distance(inf, inf) == distance(-inf, -inf) == 0
    for a, b in ((nan, x), (x, nan), (inf, -inf), (nan, inf), (x, x[:1]), (x, x.double()), (x, None), (x, [x])):
        assert distance(a, b) == math.inf
    assert distance(torch.tensor(3), torch.tensor(4)) == distance(3, 4) == distance(x, x * 0) == math.inf
    noise = torch.tensor([1e-9])  # the gradient of a bias before batch norm is rounding, of which nothing need agree
    assert distance([x, 2 * noise], [x, noise]) < ROUNDING < distance([2 * noise], [noise])
    assert ROUNDING < MACHINE_CODE < 1 / eps


@pytest.mark.slow
def test_machine_code() -> None:
    def fn(x: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"a": torch.sin(x.t() @ x) + y["b"], "c": x.reshape(-1).cumsum(0)}

    example = drawn(4, 4), {"b": drawn(4)}
    trace = Trace(fn, *example)
    trace.compile(*example)  # a warning would be an error
    assert len(operators(trace, *example)) < len(operators(fn, *example))
    for seed, layout in enumerate(LAYOUTS.values()):
        given = layout(drawn(4, 4, seed=seed)).requires_grad_(), {"b": drawn(4, seed=seed)}
        got = trace(*given)
        for name, want in fn(*given).items():
            assert not got[name].requires_grad
            torch.testing.assert_close(got[name], want.detach(), rtol=1e-12, atol=1e-12)
