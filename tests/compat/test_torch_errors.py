"""torch's errors say what metarun looks for in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metarun.compat.torch_errors import bytes_asked_for, is_one_value, is_out_of_memory, lacks_derivative, without_place


def error_of(work: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        work()
    assert isinstance(caught.value, Exception)
    return caught.value


def attention_twice() -> None:
    x = torch.ones(1, 1, 4, 8, requires_grad=True)
    y = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)[0]
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    torch.autograd.grad(slope.square().sum(), x)


def test_each_kind_is_known_and_no_other() -> None:
    too_much = error_of(lambda: torch.empty(2**54, dtype=torch.uint8))
    one_value = error_of(lambda: F.batch_norm(torch.ones(1, 3), None, None, training=True))
    no_second = error_of(attention_twice)
    other = error_of(lambda: torch.ones(2) @ torch.ones(3))
    for is_one, of in ((is_out_of_memory, too_much), (is_one_value, one_value), (lacks_derivative, no_second)):
        assert [is_one(error) for error in (too_much, one_value, no_second, other)] == [
            error is of for error in (too_much, one_value, no_second, other)
        ]
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(error_of(lambda: bytearray(2**62)))
    assert bytes_asked_for(too_much) == 2**54 and bytes_asked_for(other) == 0
    assert bytes_asked_for(RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0")) == 2.5 * 2**30


def test_an_error_of_communication_without_its_place() -> None:
    said = "[/pytorch/third_party/gloo/pair.cc:534] Connection closed by peer [::1]:1. This may be\nmore"
    assert without_place(RuntimeError(said)) == "Connection closed by peer [::1]:1"
