"""A family whose tasks are made by acting, and list no examples, goes through a whole run like any other."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.core import rng
from metarun.core.batch_norm import Mixing, Norm
from metarun.core.metric import Metric
from metarun.core.problem import Metrics, Problem
from metarun.core.tree import Params
from metarun.datasets.base import Dataset, Split, Tasks, task_keys
from metarun.errors import UserError
from metarun.runs.experiment import Experiment
from metarun.runs.load import evaluate_run
from metarun.runs.record import Record
from metarun.runs.run import run
from metarun.runs.setup import build
from metarun.verify import speed
from tests.support.runs import outcome

WORDS = ["dataset=sinusoid", "model.hidden=[4]", "steps=4", "meta_batch=3", "eval.every=2", "eval.val_tasks=4"]
WORDS += ["eval.tasks=6", "algo.eval_inner_steps=2", "checkpoint_every=2", "shot=7"]
GAIN = Metric(
    name="gain", words="gain", unit="", larger_is_better=True, scale=1.0, digits=3, bounds=(-math.inf, math.inf)
)


class Seek(Problem):
    """The network is asked at places around its last answer for the way to a hidden goal; the gain is never above 0."""

    metric = GAIN
    collects: ClassVar[bool] = True

    def __init__(self, forward: Callable[[Params, Tensor], Tensor]):
        self.forward = forward

    def collect(self, params: Params, tasks: Any, k: int, last: bool) -> Any:
        found = tasks["places"].clone()
        noise = rng.normal(rng.fold(tasks["key"], k), found.shape[2]).to(found)
        found[:, k] = torch.func.vmap(self.forward)(params, found[:, max(k - 1, 0), :, None])[..., 0] + noise
        return {**tasks, "places": found}

    def support_loss(self, params: Params, task: Any, k: int) -> Tensor:
        return (self.forward(params, task["places"][k][:, None])[:, 0] - task["goal"]).square().mean()

    def told(self, loss: Tensor) -> tuple[Tensor, Metrics]:
        return loss, {"loss": loss.detach(), "gain": -loss.detach()}

    def support_metrics(self, params: Params, task: Any, k: int) -> Metrics:
        return self.told(self.support_loss(params, task, k))[1]

    def query_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        return self.told(self.support_loss(params, task, 2))

    def whole_loss(self, params: Params, task: Any) -> tuple[Tensor, Metrics]:
        return self.query_loss(params, task)

    def measure(self, params: Params, task: Any, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        loss = self.support_loss(params, task, k).expand(len(norms))
        return -loss, loss


@dataclasses.dataclass(kw_only=True, slots=True)
class Sought(Dataset):
    has_way: ClassVar[bool] = False
    metric: ClassVar[Metric] = GAIN
    labelled: ClassVar[bool] = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1,)

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        return Goals()


class Goals(Tasks):
    def __init__(self) -> None:
        self.input_shape, self.stamp = (1,), {"split": "other goals"}

    def has(self, split: Split) -> bool:
        return True

    def check(self, split: Split, way: int, shot: int, query: int) -> None:
        pass

    def outputs(self, way: int) -> int:
        return 1

    def problem(self, forward: Callable[[Params, Tensor], Tensor], way: int) -> Problem:
        return Seek(forward)

    def inputs(self, tasks: Any) -> Tensor:
        return rng.normal(tasks["key"], 20)[..., None]

    def sample(self, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Any:
        key = task_keys(seed, split, indices, torch.device("cpu"))
        return {"key": key, "goal": rng.normal(key, 1)[:, 0], "places": torch.zeros(len(indices), 3, shot)}


def sought(*words: str, of: type[Dataset] = Sought, steps: str = "algo.inner_steps=2") -> tuple[Experiment, Record]:
    experiment, record = config.compose([*WORDS, *words, *([steps] if steps else [])])
    return dataclasses.replace(experiment, dataset=of()), record


def test_trains_is_tested_and_tested_again(tmp_path: Path) -> None:
    experiment, record = sought("algo=fomaml", f"run_dir={tmp_path / 'run'}")
    run_dir = run(experiment, record)
    result = json.loads((run_dir / "result.json").read_text())
    (score,) = result["scores"]
    assert score["mean"] < 0 and score["tasks"] == 6 and len(score["by_steps"]) == 3
    again = evaluate_run(run_dir, experiment, record, experiment.eval.select)
    assert json.loads((again / "result.json").read_text())["scores"] == result["scores"]


def test_a_run_in_two_parts_is_one_run(tmp_path: Path) -> None:
    whole = run(*sought(f"run_dir={tmp_path / 'whole'}"))
    part = run(*sought(f"run_dir={tmp_path / 'part'}"))
    for name in ("last.pt", "result.json"):
        next(part.rglob(name)).unlink()
    (part / "checkpoints" / "previous.pt").rename(part / "checkpoints" / "last.pt")
    assert outcome(run(*sought(f"run_dir={tmp_path / 'part'}")))[::2] == outcome(whole)[::2]


def test_how_the_network_mixes_examples_is_found_on_noise() -> None:
    assert build(sought()[0]).mixing is Mixing.none
    assert build(sought("model.norm=true")[0]).mixing is Mixing.statistics


def test_a_benchmark_plays_the_tasks_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def collect(self: Seek, params: Params, tasks: Any, k: int, last: bool) -> Any:
        seen.append(k)
        return tasks

    monkeypatch.setattr(Seek, "collect", collect)
    assert speed.throughput(sought()[0], seconds=0.01) > 0
    assert set(seen) == {0, 1, 2}


def test_a_method_that_needs_examples_is_refused() -> None:
    experiment, record = sought("algo=protonet", "run_dir=never", steps="")
    with pytest.raises(UserError, match=r"^algo=protonet: works on labelled examples"):
        run(experiment, record)
    assert not Path("never").exists()


@dataclasses.dataclass(kw_only=True, slots=True)
class Forgot(Sought):
    labelled: ClassVar[bool] = True


@dataclasses.dataclass(kw_only=True, slots=True)
class Misnamed(Sought):
    metric: ClassVar[Metric] = dataclasses.replace(GAIN, larger_is_better=False)


@pytest.mark.parametrize("of", [Forgot, Misnamed])
def test_what_a_data_set_says_of_its_problem_is_held_against_it(of: type[Dataset]) -> None:
    with pytest.raises(TypeError, match=f"^{of.__name__}: "):
        build(sought(of=of)[0])
