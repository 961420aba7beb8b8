"""Memory that is not there: real allocations that fail, and what is refused before any is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarun import config, out_of_memory
from metarun.cli import main as cli
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import OverTasks
from metarun.errors import OutOfMemory, UserError
from metarun.models.base import count_parameters

HUGE = 10**15
FAILS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.empty(HUGE),
    "torch, a size beyond counting": lambda: torch.empty(2**62, 2**62),
    "numpy": lambda: np.empty(HUGE),
    "python": lambda: bytearray(HUGE),
    "a list": lambda: [0] * HUGE,
}
TINY = [
    "dataset=sinusoid", "model.hidden=[4]", "meta_batch=2", "steps=1", "eval.every=0", "eval.tasks=2",
    "device.compile=false",
]  # fmt: skip


@pytest.mark.parametrize("kind", FAILS)
def test_an_allocation_that_fails_is_one_line(kind: str) -> None:
    with pytest.raises(OutOfMemory) as caught, out_of_memory.out_of_memory_in_one_line():
        FAILS[kind]()
    said = str(caught.value)
    assert said.startswith("out of memory") and "\n" not in said and caught.value.status == 2
    assert all(key in said for key in ("device.chunk", "meta_batch", "algo.hypergrad=recompute", "model"))


def test_the_amount_is_said_and_other_errors_pass() -> None:
    for text, amount in {
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB": "21.5 GB",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000 bytes.": "4.0 GB",
    }.items():
        with pytest.raises(OutOfMemory, match=re.escape(f"({amount} more were asked for)")):  # noqa: SIM117
            with out_of_memory.out_of_memory_in_one_line():
                raise RuntimeError(text)
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")):
        with pytest.raises(type(error), match=str(error)) as caught, out_of_memory.out_of_memory_in_one_line():
            raise error
        assert caught.value is error


def test_what_the_machine_has() -> None:
    there = out_of_memory.machine_memory(torch.device("cpu"))
    assert 2**28 < there < 2**50
    out_of_memory.require_room(there, torch.device("cpu"), "it", "it")
    with pytest.raises(UserError, match=r"it would take .* GB of memory at once, and there are .* a smaller key"):
        out_of_memory.require_room(there + 1, torch.device("cpu"), "it", "key")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("words", "said"),
    [("meta_batch=1000000 query=100", "meta_batch=1000000: the tasks"), ("meta_batch=1000 shot=1000000", "meta_batch"),
     ("model.hidden=[1000000,1000000]", "model: 5 copies of 1,000,004,000,001 parameters")],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train", "bench"])
def test_what_cannot_fit_is_refused_before_work(
    command: str, words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(out_of_memory, "machine_memory", lambda device: 2e8)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert cli.main([command, *TINY, *words.split()]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and said in err and "GB of memory at once" in err, err
    assert out == "" and not list(tmp_path.iterdir())


@pytest.mark.full
def test_memory_that_ends_in_the_middle_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert cli.main(["train", *TINY, f"run_dir={run_dir}"]) == 0
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    capsys.readouterr()
    commands = {
        MetaGradient: [["train", *TINY, "seed=1", f"run_dir={tmp_path / 'other'}"], ["bench", *TINY]],
        OverTasks: [["eval", f"run={run_dir}"]],
    }
    for part, lines in commands.items():
        monkeypatch.setattr(part, "__call__", lambda *_, **__: torch.empty(HUGE))
        for words in lines:
            assert cli.main(words) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and err.startswith("metarun: error: out of memory (4,000,000.0 GB more"), err
        monkeypatch.undo()
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.mark.parametrize("words", ["model=conv4", "model=resnet18", "dataset=sinusoid", "model=lstm algo=mann"])
def test_parameters_are_counted_without_making_them(words: str) -> None:
    x = config.compose(words.split())[0]
    before = torch.get_rng_state()
    counted = count_parameters(x.model, x.dataset.input_shape, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert counted == sum(p.numel() for p in x.model.build(x.dataset.input_shape, 5).parameters()) > 0
