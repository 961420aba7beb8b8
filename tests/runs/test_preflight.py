"""What cannot be computed is said before work starts, in one line that names what would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metarun import config
from metarun.core.episode import Episode, TaskFigure
from metarun.datasets.base import Split
from metarun.errors import UserError
from metarun.models.base import Model
from metarun.runs.experiment import Experiment
from metarun.runs.load import evaluate_run
from metarun.runs.preflight import Rehearsal, preflight
from metarun.runs.record import Record
from metarun.runs.run import run
from metarun.runs.setup import Setup, build
from tests.support.networks import First, convolutions

FEW = ["algo.eval_inner_steps=2", "eval.query=2"]


class Fn(nn.Module):
    def __init__(self, fn: Callable[[Tensor], Any]):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


@dataclasses.dataclass(kw_only=True, slots=True)
class Own(Model):
    make: Callable[[], list[nn.Module]]
    width: int  # of what the head sees

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        net = nn.Sequential()
        net.add_module("body", nn.Sequential(*self.make(), nn.Flatten()))
        net.add_module("head", nn.Linear(self.width, outputs))
        return net


def bench(make: Callable[[], list[nn.Module]], width: int, *words: str) -> Setup:
    return build(dataclasses.replace(config.compose([*FEW, *words])[0], model=Own(make=make, width=width)))


def written(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 784)
    out[:, 0] = x.flatten(1).sum(1)
    return out


SIDE_BY_SIDE: dict[str, tuple[Callable[[], list[nn.Module]], int]] = {
    "looks at a value": (lambda: [Fn(lambda x: x * x.sum().item())], 784),
    "decides on a value": (lambda: [Fn(lambda x: x if x.sum() > 0 else -x)], 784),
    "writes into a new tensor": (lambda: [Fn(written)], 784),
    "chooses rows": (lambda: [Fn(lambda x: x[x.flatten(1).sum(1) > -1e9])], 784),
    "recurrent layer": (lambda: [nn.Flatten(2), nn.LSTM(784, 4, batch_first=True), First()], 4),
    "recurrent cell": (lambda: [nn.Flatten(), nn.GRUCell(784, 4)], 4),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("network", SIDE_BY_SIDE)
def test_what_torch_cannot_run_side_by_side_names_the_key(network: str) -> None:
    make, width = SIDE_BY_SIDE[network]
    b = bench(make, width, "device.vectorize=vmap")
    line = (
        r"^device\.vectorize=vmap: must be loop with this network: torch cannot compute its (training|evaluation) .*$"
    )
    with pytest.raises(UserError, match=line) as caught:
        preflight(b)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(")")
    preflight(bench(make, width, "device.vectorize=loop"))
    if "recurrent" in network:
        preflight(bench(make, width))  # which runs them as a loop


def but_for(rows: int, error: Exception) -> Callable[[], list[nn.Module]]:
    def layer(x: Tensor) -> Tensor:
        if len(x) == rows:
            raise error
        return x

    return lambda: [Fn(layer)]


FAILING: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "a support set": (but_for(5, RuntimeError("five. Not me")), "training: five"),
    "a training query set": (but_for(20, KeyError("twenty")), "training: KeyError: 'twenty'"),
    "a query set": (but_for(10, TypeError()), "evaluation: TypeError"),
    "no function of torch's": (
        lambda: [Fn(Once.apply)],
        "training: In order to use an autograd.Function with functorch",
    ),
}


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


@pytest.mark.parametrize("network, how", [*((network, "auto") for network in FAILING), ("a support set", "loop")])
def test_what_fails_everywhere_is_one_line(network: str, how: str) -> None:
    make, words = FAILING[network]
    b = bench(make, 784, f"device.vectorize={how}", "query=4")
    with pytest.raises(UserError) as caught:
        preflight(b)
    line = str(caught.value)
    assert line.startswith(f"model: the network fails in {words}") and "\n" not in line


@pytest.mark.parametrize("algo", ["maml", "reptile", "protonet"])
def test_group_norm_behind_a_second_convolution_runs_with_every_method(algo: str) -> None:
    preflight(bench(convolutions, 8 * 6 * 6, f"algo={algo}", "eval.norm=all"))


SINUSOID, GLYPHS = ["dataset=sinusoid", "model.norm=true"], ["model=mlp", "model.norm=true"]
ONE_VALUE: dict[str, tuple[list[str], str]] = {
    "shot": ([*SINUSOID, "shot=1"], "shot=1, eval.shot=1"),
    "query": ([*SINUSOID, "query=1", "eval.query=3"], "query=1"),
    "shot of tests": ([*SINUSOID, "eval.shot=1"], "eval.shot=1"),
    "queries of tests": ([*SINUSOID, "query=4", "eval.query=1"], "eval.query=1"),
    "inner batch": ([*GLYPHS, "algo.inner_batch=1"], "algo.inner_batch=1"),
    "Reptile's": (["algo=reptile", "model=mlp", "model.norm=true", "algo.inner_batch=1"], "algo.inner_batch=1"),
    "Reptile's at test": (["algo=reptile", *GLYPHS, "algo.eval_inner_batch=1"], "algo.eval_inner_batch=1"),
    "pretrain's": (["algo=pretrain", *SINUSOID, "shot=1"], "shot=1, eval.shot=1"),
}


@pytest.mark.parametrize("case", ONE_VALUE)
def test_batch_norm_of_one_value_names_the_keys(case: str) -> None:
    words, keys = ONE_VALUE[case]
    with pytest.raises(UserError) as caught:
        preflight(build(config.compose(["algo.eval_inner_steps=2", *words])[0]))
    rest = "batch norm has one value in a channel, and needs two; 2 would do, or model.norm=false"
    assert str(caught.value) == f"{keys}: {rest}"
    if case == "shot":
        preflight(build(config.compose(["algo.eval_inner_steps=2", *words, "model.norm=false"])[0]))


def test_small_pictures_of_a_few_examples_have_several_values() -> None:
    experiment = config.compose(["algo.inner_batch=2", "model.filters=4", *FEW])[0]
    preflight(build(experiment))
    with pytest.raises(
        UserError, match=r"^algo\.inner_batch=1: batch norm has one value .* or a network without batch"
    ):
        preflight(bench(lambda: [nn.Conv2d(1, 4, 28), nn.BatchNorm2d(4, track_running_stats=False)], 4,
                        "algo.inner_batch=1"))  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "words",
    [
        ["eval.norm=all"],
        ["algo=pretrain"],
        ["algo=mamlpp", "algo.first_order_until=0.5", "algo.inner_steps=2"],
        ["algo=mann", "model=mann"],
        ["algo=mann", "model=mann", "algo.measure=query"],
        ["dataset=sinusoid", "algo=oracle"],
        ["dataset=gaussians", "model=logistic", "algo=pretrain"],
        ["dataset=sinusoid", "eval.every_step=false"],
    ],
    ids=" ".join,
)
def test_no_task_of_validation_or_test_is_drawn(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    b = build(config.compose(["algo.eval_inner_steps=2", *words])[0])
    real, drawn = b.tasks.sample, []

    def watched(split: Split, *arguments: Any) -> Any:
        drawn.append(split)
        return real(split, *arguments)

    monkeypatch.setattr(b.tasks, "sample", watched)
    state = torch.random.get_rng_state()
    preflight(b)
    assert set(drawn) == {Split.train} and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "word", ["algo=maml", "algo=pretrain", "dataset=sinusoid", "dataset=gaussians", "algo=reptile"]
)
def test_rehearsed_evaluation_tasks_have_the_shape_of_real_ones(word: str) -> None:
    b = build(config.compose([word, "model=mlp", "eval.shot=4", "eval.query=3"])[0])
    x = b.experiment
    of = Split.test, x.eval.seed, range(2), x.way, 4, 3
    for one, other in zip(Rehearsal(b).sample(*of), b.tasks.sample(*of), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert one.is_floating_point() or one.ndim == 1 or torch.equal(one, other)  # the labels


def refused(experiment: Experiment, record: Record, line: str) -> None:
    with pytest.raises(UserError, match=line):
        run(experiment, record)


def test_nothing_is_trained_or_written_before(tmp_path: Path) -> None:
    words = [*SINUSOID, "steps=2", "eval.tasks=4", "eval.val_tasks=4", "algo.eval_inner_steps=2", "query=4"]
    folder = tmp_path / "run"
    refused(*config.compose([*words, f"run_dir={folder}", "eval.query=1"]), r"^eval\.query=1: batch norm has one value")
    assert not folder.exists()
    run(*config.compose([*words, f"run_dir={folder}"]))
    record = Record.read(folder)
    assert record is not None
    experiment, asked = config.reopen(record, ["eval.query=1"])
    with pytest.raises(UserError, match=r"^eval\.query=1: batch norm has one value"):
        evaluate_run(folder, experiment, asked, experiment.eval.select)
    assert not (folder / "eval").exists()


DRAWN = {"dataset=sinusoid": 300, "dataset=gaussians": 2 * 4, "model=mlp": 5 * 4}  # images of glyphs


@pytest.mark.parametrize("word", DRAWN)
def test_what_is_drawn_later_is_predicted_before(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many queries as the family's figure is drawn from; none for a family that has no figure."""
    seen: list[int] = []

    def watched(setup: Any, meta: Any, episodes: Episode, norm: Any) -> None:
        seen.append(episodes.query_x.shape[1])

    monkeypatch.setattr("metarun.runs.preflight.predictions", watched)
    b = build(config.compose(["algo.eval_inner_steps=1", "eval.query=4", word])[0])
    preflight(b, training=False)
    assert seen == [DRAWN[word]]
    b.tasks.figure = TaskFigure.none
    preflight(b, training=False)
    assert seen == [DRAWN[word]]
