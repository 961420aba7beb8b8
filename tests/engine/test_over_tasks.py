from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx.experimental import proxy_tensor

from metarun import config
from metarun.compat.torch_tracing import TORCH
from metarun.core.episode import Episode
from metarun.engine.kernels import build
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import (
    COMPILE_PAYS,
    COMPILED_OPERATIONS,
    TRACE_PAYS,
    TRACED_STEPS,
    Compile,
    Engine,
    OverTasks,
    Vectorize,
    concatenate,
)
from metarun.errors import OutOfMemory, UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STRIDED, POOLED, MLP = nn.Conv2d(1, 16, 3, 2), nn.Sequential(nn.Conv2d(1, 16, 3)), nn.Sequential(nn.Linear(5, 1))


def episodes(tasks: int) -> Episode:
    x = torch.arange(tasks * 2.0).reshape(tasks, 2)
    return Episode(x, x, x, x, torch.arange(tasks))


def sums(meta: dict[str, torch.Tensor], task: Episode) -> dict[str, torch.Tensor]:
    return {"s": meta["w"] * task.support_x.sum(), "k": task.key}


@pytest.mark.parametrize("how", [Vectorize.vmap, Vectorize.loop, Vectorize.grouped])
@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7])  # some divide five tasks, some do not
@pytest.mark.parametrize("calls", [0, TRACE_PAYS])
def test_every_chunk_size_gives_the_same(how: Vectorize, chunk: int | None, calls: int) -> None:
    chunks = list(OverTasks(Engine(how, chunk, Compile.auto), sums, calls)({"w": torch.tensor(2.0)}, episodes(5)))
    assert all(len(part["k"]) <= (chunk or 5) for part in chunks)
    joined = concatenate(chunks)
    assert joined["k"].tolist() == list(range(5))
    assert joined["s"].tolist() == (2 * episodes(5).support_x.sum(1)).tolist()


def choose(how: Vectorize, module: nn.Module, device: torch.device = CPU, compile: Compile = Compile.auto) -> Engine:
    run = functools.partial(module, torch.rand(2, 1, 5, 5))
    return Engine.choose(how, None, compile, device, module, examples=10, width=1_000, run=run)


def test_auto() -> None:
    assert choose(Vectorize.auto, MLP).how is Vectorize.vmap
    assert choose(Vectorize.auto, POOLED, CUDA).how is Vectorize.vmap
    assert choose(Vectorize.auto, nn.LSTM(1, 1), CUDA).how is Vectorize.loop
    assert choose(Vectorize.auto, POOLED).how is Vectorize.grouped and choose(Vectorize.auto, STRIDED).native
    assert choose(Vectorize.vmap, POOLED) == Engine(Vectorize.vmap, 52, Compile.auto)
    assert choose(Vectorize.auto, MLP, CUDA).chunk is None


def test_a_cpu_computes_as_many_tasks_side_by_side_as_its_cache_holds_of_the_widest_layer() -> None:
    wide = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 4))

    def chunk(examples: int, width: int) -> int | None:
        return Engine.choose(
            Vectorize.auto, None, Compile.auto, CPU, wide, examples=examples, width=width, run=lambda: None
        ).chunk

    assert chunk(4000, 2) == 1 and chunk(100, 2) == 52 and chunk(100, 1000) == 5


def test_without_compiling_large_convolutions_run_one_by_one() -> None:
    assert choose(Vectorize.auto, STRIDED, compile=Compile.false).how is Vectorize.vmap
    assert choose(Vectorize.auto, POOLED, compile=Compile.false) == Engine(Vectorize.loop, 1)
    assert choose(Vectorize.grouped, POOLED, compile=Compile.false).native is None


def test_without_a_compiler_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    build.library.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"no C\+\+ compiler here \(looked for c\+\+, g\+\+, clang\+\+\)"):
            assert choose(Vectorize.auto, POOLED).how is Vectorize.loop
    finally:
        build.library.cache_clear()


def test_only_long_runs_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    operations = COMPILED_OPERATIONS

    class Traced:
        def __init__(self, fn: Any, *examples: Any):
            made.append("traced")
            self.fn, self.operations = fn, operations

        def __call__(self, *arguments: Any) -> Any:
            return self.fn(*arguments)

        def compile(self, *examples: Any) -> None:
            made.append("compiled")

    monkeypatch.setattr("metarun.engine.trace.Trace", Traced)

    def what(compile: Compile, calls: int) -> list[str]:
        made.clear()
        list(OverTasks(Engine(Vectorize.vmap, None, compile), sums, calls)({"w": torch.tensor(1.0)}, episodes(2)))
        return made

    assert what(Compile.auto, TRACE_PAYS - 1) == what(Compile.false, COMPILE_PAYS) == []
    assert what(Compile.auto, COMPILE_PAYS - 1) == ["traced"]
    assert what(Compile.auto, COMPILE_PAYS) == what(Compile.true, 1) == ["traced", "compiled"]
    assert what(Compile.true, 0) == []  # an evaluation
    operations += 1  # of which the compiler makes machine code in more than ten minutes
    assert what(Compile.auto, COMPILE_PAYS) == ["traced"]
    assert what(Compile.true, COMPILE_PAYS) == ["traced", "compiled"]


@pytest.mark.parametrize("compile, traced", [(Compile.auto, False), (Compile.true, True)])
def test_a_long_inner_loop_is_traced_only_when_asked(compile: Compile, traced: bool) -> None:
    algorithm = config.compose(["algo=fomaml", f"algo.inner_steps={TRACED_STEPS + 1}"])[0].algo
    gradient = MetaGradient(Engine(Vectorize.vmap, None, compile), algorithm, None, COMPILE_PAYS)  # type: ignore[arg-type]
    assert (gradient._prepare(algorithm).calls > 0) is traced


def test_a_torch_that_traces_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(fn: Callable[..., Any], tracing_mode: str) -> None:
        raise AssertionError("not called")

    monkeypatch.setattr(proxy_tensor, "make_fx", older)
    over_tasks = OverTasks(Engine(Vectorize.vmap, None, Compile.auto), lambda meta, task: meta["w"], TRACE_PAYS)
    said = r"^torch \d.*this one differs \(.*unexpected keyword.*device\.compile=false"
    with pytest.raises(UserError, match=said) as raised:
        list(over_tasks({"w": torch.tensor(1.0)}, episodes(2)))
    assert "\n" not in str(raised.value) and f"torch{TORCH}" in str(raised.value)
    monkeypatch.delattr(proxy_tensor, "make_fx")
    with pytest.raises(UserError, match="this one differs"):
        list(over_tasks({"w": torch.tensor(1.0)}, episodes(2)))


def test_the_torch_that_is_named_is_the_one_that_is_installed() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"torch{TORCH}",' in text


LOOKS_AT_VALUES: dict[str, tuple[Vectorize, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "of the parameters": (Vectorize.vmap, lambda w, x: x.sum() * (2 if w > 0 else 3)),
    "of a task": (Vectorize.loop, lambda w, x: x.sum() * (2 if (w * x).sum() > 0 else 3)),
    "of a result's shape": (Vectorize.loop, lambda w, x: x.sum() * (2 if len(x[w * x > 0]) > 0 else 3)),
    "through numpy": (Vectorize.loop, lambda w, x: x.sum() * (2 if w.numpy() > 0 else 3)),
}


@pytest.mark.parametrize("what", LOOKS_AT_VALUES)
def test_what_looks_at_values_runs_untraced(what: str) -> None:
    how, fn = LOOKS_AT_VALUES[what]
    over_tasks = OverTasks(
        Engine(how, None, Compile.auto), lambda meta, task: fn(meta["w"], task.support_x), TRACE_PAYS
    )
    said = r"^device\.compile: the network looks at the values of tensors, so the step runs untraced, .*\)$"
    with pytest.warns(UserWarning, match=said) as warned:
        (first,) = over_tasks({"w": torch.tensor(1.0)}, episodes(2))
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    (second,) = over_tasks({"w": torch.tensor(-1.0)}, episodes(2))
    assert first.tolist() == [2.0, 10.0] and second.tolist() == [3.0, 15.0]


FAILS: dict[str, tuple[Exception, type[UserError], str]] = {
    "of torch": (
        RuntimeError("Expected a proxy. \nmore"),
        UserError,
        r"tracing failed \(RuntimeError: Expected a proxy",
    ),
    "of the function": (KeyError("k"), UserError, r"tracing failed \(KeyError: 'k'\)"),
    "without words": (AssertionError(), UserError, r"tracing failed \(AssertionError\)"),
    "of memory": (RuntimeError("can't allocate memory"), OutOfMemory, "out of memory"),
}


@pytest.mark.parametrize("what", FAILS)
def test_every_other_failure_of_tracing_is_an_error(what: str) -> None:
    error, kind, said = FAILS[what]

    def fails(meta: dict[str, torch.Tensor], task: Episode) -> torch.Tensor:
        if type(task.support_x.sum()) is not torch.Tensor:  # while it is traced
            raise error
        return task.support_x.sum()

    plain, traced = (OverTasks(Engine(Vectorize.loop, 1, Compile.auto), fails, calls) for calls in (0, TRACE_PAYS))
    assert [part.tolist() for part in plain({}, episodes(2))] == [[1.0], [5.0]]
    with pytest.raises(kind, match=rf"^(device\.compile: )?{said}") as raised:
        list(traced({}, episodes(2)))
    assert "\n" not in str(raised.value) and raised.value.__cause__ is error  # which --debug shows
    assert kind is OutOfMemory or "device.compile=false" in str(raised.value)


def test_frozen_python_state_ends_at_the_next_comparison() -> None:
    """What ``task_fn`` depends on changes at call 3; the trace's results are the others' again from call 4 on."""
    scale = 1.0

    def scaled(meta: dict[str, torch.Tensor], task: Episode) -> torch.Tensor:
        return meta["w"] * scale * task.support_x.sum()

    traced = OverTasks(Engine(Vectorize.vmap, None, Compile.auto), scaled, TRACE_PAYS)
    plain = OverTasks(Engine(Vectorize.vmap), scaled)
    meta, agree = {"w": torch.tensor(2.0)}, []
    for call in range(1, 10):
        scale = 1.0 if call < 3 else float(call)
        with pytest.warns(UserWarning, match="device.compile: .*at call 4") if call == 4 else nullcontext():
            (got,) = traced(meta, episodes(2))
        agree.append(torch.equal(got, next(plain(meta, episodes(2)))))
    assert agree == [True, True, False] + 6 * [True]
