"""What torch says of functions that it cannot trace is known by type or text, and nothing else is."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from metarun.compat.torch_tracing import COMPILED, NO_FAKE, NUMBERS, tracer, untraceable
from metarun.errors import UserError

VALUES = "looks at the values of tensors"
OPERATOR = "calls an operator that does not say what its result looks like"
PART = "has a part that torch.compile made"


@pytest.fixture(scope="module", autouse=True)
def operators() -> Iterator[None]:
    """An operator of each kind without a fake implementation."""
    library = torch.library.Library("metarun_test", "DEF")
    library.define("plain(Tensor x) -> Tensor")
    library.impl("plain", lambda x: x * 2, "CPU")
    torch.library.custom_op("metarun_test::custom", lambda x: x * 2, mutates_args=(), schema="(Tensor x) -> Tensor")
    yield
    library._destroy()


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x if bool(x.sum() > 0) else -x


@functools.cache
def compiled() -> Callable[[Tensor], Tensor]:
    """Made when it is called: importing the compiler takes seconds."""
    return torch.compile(lambda x: x + 1, backend="eager")


def slope(fn: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    return grad(lambda x: fn(x).sum())


# what the function does: (function, why it cannot be traced, a text by which that is known where there is no type)
UNTRACEABLE: dict[str, tuple[Callable[[Tensor], Any], str, str]] = {
    "if": (lambda x: x * 2 if x.sum() > 0 else x * 3, VALUES, ""),
    "if, in a derivative": (slope(lambda x: x * 2 if x.sum() > 0 else x * 3), VALUES, ""),
    "any": (lambda x: x if (x > 0).any() else -x, VALUES, ""),
    "item as a length": (lambda x: torch.stack([x * i for i in range(int(x[0].item()))]), VALUES, ""),
    "float": (lambda x: x * float(x.sum()), VALUES, ""),
    "a slice": (lambda x: x[: x.sum().int()], VALUES, ""),
    "equal": (lambda x: x if torch.equal(x, x * 1) else -x, VALUES, ""),
    "an unknown shape": (lambda x: torch.linalg.lstsq(torch.eye(3), x[:, None])[0], VALUES, ""),
    "TorchScript": (lambda x: scripted(x), VALUES, NUMBERS[0]),
    "numpy": (lambda x: x * x.numpy()[0], VALUES, NUMBERS[1]),
    "a copy": (lambda x: copy.deepcopy(x) * 2, VALUES, NUMBERS[2]),
    "a new tensor": (lambda x: torch.tensor([x.sum(), x[0]]), VALUES, NUMBERS[3]),
    "tolist": (slope(lambda x: x * x.tolist()[0]), VALUES, NUMBERS[4]),
    "tolist of chosen rows": (slope(lambda x: x * len(x[x > 0].tolist())), VALUES, NUMBERS[5]),
    "a text": (lambda x: (f"{x.sum():.3f}", x)[1], VALUES, NUMBERS[6]),
    "a text, in a derivative": (slope(lambda x: (f"{x.sum():.3f}", x)[1]), VALUES, NUMBERS[7]),
    "an operator": (lambda x: torch.ops.metarun_test.plain(x), OPERATOR, ""),
    "a custom operator": (lambda x: torch.ops.metarun_test.custom(x), OPERATOR, NO_FAKE),
    "a compiled part": (lambda x: compiled()(x), PART, COMPILED),
}


@pytest.mark.parametrize("what", UNTRACEABLE)
def test_why_it_cannot_be_traced(what: str) -> None:
    fn, why, text = UNTRACEABLE[what]
    x = torch.tensor([1.0, 2.0, 3.0])
    fn(x)  # runs
    with pytest.raises(Exception) as caught:
        tracer(fn)(x)
    assert isinstance(caught.value, Exception) and text in str(caught.value)
    assert untraceable(caught.value) == why


def test_every_text_is_of_a_case() -> None:
    assert {text for _, _, text in UNTRACEABLE.values()} == {"", *NUMBERS, NO_FAKE, COMPILED}


def fails(error: Exception) -> Callable[[Tensor], Tensor]:
    def fn(x: Tensor) -> Tensor:
        raise error

    return fn


@pytest.mark.parametrize(
    "fn",
    [
        fails(KeyError("k")),
        fails(NotImplementedError("mine")),
        lambda x: x @ torch.ones(7, 7),
        lambda x: x + torch.ones(3, device="meta"),
        lambda x: F.conv2d(x),  # type: ignore[call-overload]
        lambda x: 1 / 0,
        lambda x: torch.vmap(lambda row: row * row.sum().item())(x[None]),  # nowhere does that run
    ],
)
def test_any_other_failure_has_no_such_reason(fn: Callable[[Tensor], Any]) -> None:
    with pytest.raises(Exception) as caught:
        tracer(fn)(torch.ones(3))
    assert isinstance(caught.value, Exception) and untraceable(caught.value) is None


def test_a_torch_without_the_types_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._subclasses.fake_tensor.DynamicOutputShapeException")
    with pytest.raises(UserError, match=r"this one differs .*DynamicOutputShapeException"):
        untraceable(RuntimeError())
