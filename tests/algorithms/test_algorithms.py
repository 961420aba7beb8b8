"""What users add: a network that the package has never seen, and a method of their own, through the same doors."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metarun import config
from metarun.core import tree
from metarun.core.meta import Meta
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import TRACE_PAYS, Compile, Engine, Vectorize
from metarun.models.base import Model, functional
from metarun.runs.setup import build
from metarun.runs.signals import StopSignals
from metarun.runs.train import train
from metarun.verify import check, problems
from tests.support.commands import ON_IMAGES

ROOT = Path(__file__).parents[2]


class Attention(nn.Module):
    """Rows of pixels attend to each other; gated, layer-normed, with a constant buffer and a tied weight."""

    def __init__(self, side: int, outputs: int):
        super().__init__()
        self.embed = nn.Linear(side, 16)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48, bias=False)
        self.gate = nn.Parameter(torch.zeros(16))
        self.mix = nn.Conv1d(16, 16, 3, padding=1, groups=4)
        self.group_norm = nn.GroupNorm(2, 16)
        self.head = nn.Linear(16, outputs)
        self.register_buffer("position", torch.linspace(-1, 1, side)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x.squeeze(1)) + self.position)
        q, k, v = self.qkv(x).chunk(3, -1)
        attended = torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v
        x = x + torch.tanh(self.gate + 1) * attended
        x = self.group_norm(nn.functional.gelu(self.mix(x.transpose(1, 2))))
        return self.head(x.mean(-1))


@dataclasses.dataclass(kw_only=True, slots=True)
class Unseen(Model):
    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Attention(input_shape[-1], outputs)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("algo", ON_IMAGES)
def test_a_module_the_package_has_never_seen_is_meta_trained(algo: str, tmp_path: Path) -> None:
    steps = "steps=1" if algo == "random" else "steps=3"
    words = [f"algo={algo}", steps, "meta_batch=2", "eval.every=3", "eval.val_tasks=2", "algo.eval_inner_steps=2"]
    experiment, _ = config.compose(words)
    bench = build(dataclasses.replace(experiment, model=Unseen()))
    state = train(bench, tmp_path, StopSignals())
    assert all(value.isfinite().all() for value in tree.leaves(state.meta))


class Residual(nn.Module):
    """In-place ReLU, a skip, two kinds of norm, a bilinear form; batch norm without running statistics."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.relu, self.prelu = nn.ReLU(inplace=True), nn.PReLU()
        self.form, self.head = nn.Bilinear(4, 4, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.batch(self.first(x)))
        x = self.prelu(self.relu(self.instance(self.second(x)) + x)).mean((-2, -1))
        return self.head(self.form(x, torch.sigmoid(x)))


class Transformer(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.embed = nn.Linear(12, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x.squeeze(1))).mean(1))


class Recurrent(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.rows, self.head = nn.LSTM(12, 5, batch_first=True), nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.squeeze(1))[0][:, -1])


NETWORKS = {
    "attention": lambda: Attention(12, 3),
    "residual": lambda: Residual(3),
    "transformer": lambda: Transformer(3),
    "recurrent": lambda: Recurrent(3),
}


@pytest.mark.sampled(0, 2)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of some layers is a loop inside torch
@pytest.mark.parametrize("network", NETWORKS)
def test_its_meta_gradient_is_right(network: str) -> None:
    torch.manual_seed(0)
    module = NETWORKS[network]().double()
    (case, *_) = problems.cases(torch.device("cpu"))
    x = torch.randn(3, 12, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    case = dataclasses.replace(
        case,
        problem=dataclasses.replace(case.problem, forward=functional(module)),
        meta=Meta.of({name: p.detach() for name, p in module.named_parameters()}),
        episodes=case.episodes._replace(support_x=x[:, :6], query_x=x[:, 6:]),
    )
    maml = problems.small(config.compose(["algo=maml"])[0].algo)
    want = check.reference(maml, case)
    direction = tree.scale(1 / tree.norm(want), want)
    slope = problems.finite_difference(check.query_loss_after_adapting(maml, case), case.meta, direction)
    assert tree.norm(want).item() == pytest.approx(slope, rel=1e-5)
    cuda, cpu, run = torch.device("cuda"), torch.device("cpu"), functools.partial(module, x[0])
    engines = [  # on a GPU vmap, but for recurrent layers
        Engine.choose(Vectorize.auto, None, Compile.false, cuda, module, examples=1, width=1, run=run),
        Engine.choose(Vectorize.auto, None, Compile.auto, cpu, module, examples=1, width=1, run=run),
        Engine(Vectorize.loop),
    ]
    for engine, calls in zip(engines, (0, TRACE_PAYS, 0), strict=True):
        got, _ = MetaGradient(engine, maml, case.problem, calls)(case.meta, case.episodes)
        assert problems.relative_error(got, want) < 1e-10


MINE = '''
from dataclasses import dataclass

from metarun.algorithms.base import GradientBased
from metarun.core import tree
from metarun.core.inner import Carry, Inner


@dataclass(kw_only=True, slots=True)
class Still(GradientBased):
    """Pulls the parameters to zero and never adapts."""

    decay: float

    def inner(self, problem, task, *, training):
        return Inner(lambda meta: Carry(meta.model, {}), lambda meta, carry, k: carry)

    def meta_grad(self, problem, meta, task, progress):
        _, metrics = problem.query_loss(meta.model, task)
        return tree.scale(self.decay, meta), metrics
'''


@pytest.mark.full
def test_a_method_is_one_python_file_and_one_yaml(tmp_path: Path) -> None:
    for part in ("metarun", "conf"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "metarun/algorithms/still.py").write_text(MINE)
    text = (tmp_path / "conf/algo/maml.yaml").read_text().replace("schema/algo/maml", "schema/algo/still")
    of_maml = ("hypergrad", "segment", "frozen", "inner_batch", "eval_later_lr", "head")
    lines = [line for line in text.splitlines() if not line.startswith(of_maml)]
    (tmp_path / "conf/algo/still.yaml").write_text("\n".join([*lines, "decay: 0.5"]))
    words = ["algo=still", "steps=2", "meta_batch=2", "eval.tasks=4", "eval.val_tasks=2", "run_dir=run"]
    done = subprocess.run(
        [sys.executable, "-m", "metarun", "train", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "still on glyphs" in (tmp_path / "run/report.md").read_text()
