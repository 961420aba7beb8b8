"""What is exported is loaded by a fresh interpreter without metarun, and gives the outputs of the original."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import metarun
from metarun import config
from metarun.errors import UserError
from metarun.learner import export as exporting
from metarun.learner.formats import Format
from metarun.learner.frozen import freeze
from metarun.learner.learner import Learner
from metarun.learner.plain import build, plain
from metarun.models.base import initialise
from tests.learner.support import drawn, short_run, with_data
from tests.support.own_tables import NUMBERS, write

FORMATS = list(Format.__members__)
CLOSE = 1e-4  # of the largest output: other libraries add up in another order
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
# what a reader does; nothing of metarun can be imported, and what is loaded is used on examples from a file
READER = """
import runpy, sys
import numpy
sys.modules["metarun"] = None
sys.path.insert(0, sys.argv[1])
made = runpy.run_path(sys.argv[1] + "/load.py")
x = numpy.load(sys.argv[2])
if "onnxruntime" not in made:
    import torch
    outputs = made["network"](torch.from_numpy(x)).detach().numpy()
else:
    assert "torch" not in sys.modules
    outputs = made["network"](x)
numpy.save(sys.argv[3], outputs)
"""


def needed(format: str) -> None:
    """Skip where a library is missing."""
    for library in NEEDS.get(format, ()):
        if util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


def read_elsewhere(folder: Path, x: Tensor) -> np.ndarray:
    """Outputs of an exported network, in an interpreter that does not have metarun."""
    given, found = folder.parent / "x.npy", folder.parent / "outputs.npy"
    np.save(given, x.numpy())
    command = [sys.executable, "-c", READER, str(folder), str(given), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, timeout=300)
    assert done.returncode == 0, done.stderr
    return np.load(found)


def same(found: np.ndarray, want: Tensor) -> bool:
    scale = float(want.abs().max())
    return found.dtype == want.numpy().dtype and scale > 0 and bool(np.abs(found - want.numpy()).max() <= CLOSE * scale)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    words = ["algo=maml", "model=conv4_mini", "model.filters=4", "shot=2", "way=3", "eval.norm=transductive"]
    folder = short_run(tmp_path_factory.mktemp("maml") / "run", *words)
    return metarun.load(folder, device="cpu")


@pytest.mark.full
@pytest.mark.parametrize("format", FORMATS)
def test_an_adapted_network_is_the_same_elsewhere(learner: Learner, tmp_path: Path, format: str) -> None:
    needed(format)
    tasks = drawn(with_data(learner))
    adapted = learner.adapt(tasks.support_x[0], ["eel", "ant", "bee", "bee", "ant", "eel"])
    out = metarun.export(adapted, tmp_path / "out", format, command=["export", "run=r", "support=my photos"])
    x = tasks.query_x[0].cpu()
    assert same(read_elsewhere(out, x), adapted.module()(x))
    assert same(read_elsewhere(out, x[:1]), adapted.module()(x)[:1])  # alone as among others
    source = {"network.py"} if format in ("state_dict", "safetensors") else set()
    always = {"README.md", "classes.json", "config.json", "load.py", Format[format].value}
    assert {path.name for path in out.iterdir()} == always | source
    assert json.loads((out / "classes.json").read_text()) == ["ant", "bee", "eel"]
    facts = json.loads((out / "config.json").read_text())
    assert facts["inputs"]["shape"] == ["B", 1, 28, 28] and facts["adapted"]["support_examples"] == 6
    assert facts["run"]["settings"]["model.filters"] == 4
    assert len([line for line in (out / "load.py").read_text().splitlines() if line]) <= 10
    if format == "safetensors":
        with open(out / "model.safetensors", "rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert json.loads(head["__metadata__"]["classes"]) == ["ant", "bee", "eel"]


def test_the_card_states_the_protocol_and_the_limits(learner: Learner, tmp_path: Path) -> None:
    x = torch.rand(3, 1, 28, 28)
    out = metarun.export(learner.adapt(x, ["a", "b", "c"], steps=2), tmp_path / "out", command=["export", "a b"])
    card = (out / "README.md").read_text()
    result = json.loads((learner.run / "result.json").read_text())
    (score,) = result["scores"]
    for said in (
        f"| transductive | {100 * score['mean']:.2f} ± {100 * score['ci95']:.2f} % | {score['tasks']} |",
        "| task | 3-way 2-shot |",
        f"| test_steps | {result['protocol']['test_steps']} |",
        "after 2 inner steps on these examples",
        "None of the numbers above is for these statistics",
        "this support set and the network made of it were not tested",
        "inverted: ink is 1",
        "metarun export 'a b'",
        "Classes, in the order of the outputs (`classes.json`): a, b, c.",
    ):
        assert said in card, said
    assert "other settings" not in card
    words = ["device=cpu", "algo.inner_lr=0.1", "device.compile=false"]
    other = exporting.export(learner_with(learner.run, words).adapt(x, ["a", "b", "c"]), tmp_path / "other")
    assert "made with other settings: algo.inner_lr 0.1 (tested: 0.4)" in (other / "README.md").read_text()


def test_a_card_has_no_number_of_an_ensemble(tmp_path: Path) -> None:
    """The network is one of its members."""
    words = ["model=mlp", "model.hidden=[4]", "steps=4", "eval.every=1", "eval.ensemble=2"]
    run = short_run(tmp_path / "run", *words)
    one, both = json.loads((run / "result.json").read_text())["scores"]
    card = (metarun.export(metarun.load(run, device="cpu"), tmp_path / "out") / "README.md").read_text()
    assert both["ensemble"] == 2 and f"{100 * one['mean']:.2f} ± " in card
    assert "ensemble of" not in card and "| ensemble |" not in card


def learner_with(run: Path, words: list[str]) -> Learner:
    from metarun.learner.load import learner

    return learner(run, None, words)


@pytest.mark.full
@pytest.mark.parametrize("format", FORMATS)
def test_an_initialisation_is_the_same_elsewhere(learner: Learner, tmp_path: Path, format: str) -> None:
    needed(format)
    out = metarun.export(learner, tmp_path / "out", format)
    x = torch.rand(7, 1, 28, 28)
    assert same(read_elsewhere(out, x), learner.module().eval()(x).detach())
    card = (out / "README.md").read_text()
    assert "its outputs before that are no predictions" in card and "statistics of each batch, in `eval()` too" in card
    assert json.loads((out / "classes.json").read_text()) is None
    if format == "state_dict":
        weights, own = torch.load(out / "model.pt", weights_only=True), learner.state_dict()
        assert all(torch.equal(weights[name], own[name]) for name in own)


@pytest.mark.full
@pytest.mark.parametrize("format", ["state_dict", "onnx"])
def test_regression_and_rows(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(format)
    waves = metarun.load(short_run(tmp_path / "waves", "dataset=sinusoid"), device="cpu")
    tasks = drawn(with_data(waves))
    adapted = waves.adapt(tasks.support_x[0], tasks.support_y[0])
    out = metarun.export(adapted, tmp_path / "out", format)
    assert same(read_elsewhere(out, tasks.query_x[0]), adapted.module()(tasks.query_x[0]))
    assert json.loads((out / "classes.json").read_text()) is None

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sensors.csv")
    run = short_run(tmp_path / "run", "data_root=.", *NUMBERS, "dataset.split=part", "shot=3", "query=3")
    x = np.array([[900.0, 3.0], [1500.0, 70.0], [2900.0, 99.0]])
    of_rows = metarun.load(run, device="cpu").adapt(x, [25.0, 30.0, 55.0])
    out = metarun.export(of_rows, tmp_path / "rows", format)
    found = read_elsewhere(out, torch.from_numpy(x[:2] + 1))
    np.testing.assert_allclose(found, of_rows.predict(x[:2] + 1), rtol=1e-5)
    assert found.dtype == np.float64 and found.mean() > 5  # in degrees, and not in deviations
    assert (
        "(speed [rpm], load)" in (out / "README.md").read_text() and "(temperature)" in (out / "README.md").read_text()
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("algo", ["protonet", "mann", "protomaml"])
def test_what_predicts_nothing_before_a_task_needs_a_support_set(algo: str, tmp_path: Path) -> None:
    words = (
        ["model=mann", "model.units=8", "algo.slots=6", "algo.inner_steps=2"] if algo == "mann" else ["model.filters=4"]
    )
    learner = metarun.load(short_run(tmp_path / "run", f"algo={algo}", "way=2", "shot=2", *words), device="cpu")
    with pytest.raises(UserError, match=f"support: has no value, and a run of algo={algo} needs one"):
        metarun.export(learner, tmp_path / "out")
    adapted = learner.adapt(torch.rand(4, 1, 28, 28), ["a", "b", "a", "b"])
    out = metarun.export(adapted, tmp_path / "out")
    x = torch.rand(3, 1, 28, 28)
    assert same(read_elsewhere(out, x), adapted.module()(x))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [name for name in config.choices("model") if name != "gaussian_mlp"])
def test_every_network_is_written_in_torchs_own_layers(name: str) -> None:
    """Frozen and before it is adapted; ``gaussian_mlp`` is of tasks to act in, whose runs ``metarun.load`` refuses."""
    shape = (2,) if name == "logistic" else (3, 20, 24)
    module = initialise(config.compose([f"model={name}"])[0].model, shape, 3, 0)
    x = torch.rand(6, *shape)
    values = {name: p + 0.1 * torch.rand_like(p) for name, p in module.named_parameters()}
    for network in (freeze(module, values, x), module.eval()):
        made = plain(network)
        assert "metarun" not in made.source
        again = build(made.source)
        again.load_state_dict(made.weights)
        for batch in (x, x[:3], 3 * x[1:] - 1):
            assert torch.allclose(again(batch), network(batch), atol=1e-6)


@pytest.mark.sampled(0, 14)
@pytest.mark.parametrize("name", [name for name in config.choices("model") if name != "gaussian_mlp"])
@pytest.mark.parametrize("format", ["torch_export", "onnx"])
def test_every_network_is_a_graph_or_is_refused(name: str, format: str, tmp_path: Path) -> None:
    needed(format)
    shape = (2,) if name == "logistic" else (3, 20, 24)
    module = initialise(config.compose([f"model={name}"])[0].model, shape, 3, 0)
    x = torch.rand(6, *shape)
    network = freeze(module, dict(module.named_parameters()), x)
    kind = Format[format]
    if (name, format) == ("mann", "onnx"):
        with pytest.raises(UserError, match="format=onnx: torch cannot write this network so") as error:
            kind.write(tmp_path, network, x, {})
        assert "\n" not in str(error.value)
        return
    kind.write(tmp_path, network, x, {})
    assert [path.name for path in tmp_path.iterdir()] == [kind.value]  # ONNX too: one file
    (tmp_path / "load.py").write_text(kind.loading(x))
    (tmp_path / "classes.json").write_text("null")
    loaded = exporting.reloaded(tmp_path)["network"]
    for batch in (x, x[:1]):
        assert same(torch.as_tensor(loaded(kind.given(batch))).detach().numpy(), network(batch))


class Chooses(nn.Module):
    """A network whose layers depend on its input, so that it has no trace."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = learner.adapt(torch.rand(3, 1, 28, 28), [0, 1, 2])
    with pytest.raises(UserError, match="cannot be written in torch's own layers") as error:
        plain(Chooses().eval())
    assert "\n" not in str(error.value)
    for format, said in (("onx", r"format=onx: must be one of .* \(did you mean onnx\?\)"),):
        with pytest.raises(UserError, match=said):
            metarun.export(adapted, tmp_path / "out", format)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"format=safetensors: needs .*: pip install 'metarun\[safetensors\]'"):
        metarun.export(adapted, tmp_path / "out", "safetensors")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"format=onnx: needs .*: pip install 'metarun\[onnx\]'"):
        metarun.export(adapted, tmp_path / "out", "onnx")
    batch = learner.adapt(torch.rand(2, 3, 1, 28, 28), [[0, 1, 2]] * 2)
    with pytest.raises(UserError, match="this is a batch of tasks"):
        metarun.export(batch, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_outputs_is_not_left(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = learner.adapt(torch.rand(3, 1, 28, 28), [0, 1, 2])

    def wrong(change) -> None:
        def made(module: nn.Module) -> SimpleNamespace:
            right = plain(module)
            weights = {name: value.clone() for name, value in right.weights.items()}
            change(weights)
            return SimpleNamespace(source=right.source, weights=weights)

        monkeypatch.setattr("metarun.learner.formats.plain", made)
        with pytest.raises(UserError, match="nothing is left of it") as error:
            metarun.export(adapted, tmp_path / "out")
        assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []

    wrong(lambda weights: weights["head.bias"].add_(0.01))
    wrong(lambda weights: weights["body.0.1.running_var"].mul_(1.1))
    wrong(lambda weights: weights["head.weight"].fill_(float("nan")))
    wrong(lambda weights: weights.pop("head.bias"))


def test_a_folder_that_is_there_is_kept(learner: Learner, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for out, said in (("full", "is there already and not empty"), ("file", "a new folder"), ("file/x", "is a file")):
        with pytest.raises(UserError, match=said):
            metarun.export(learner, tmp_path / out)
    assert (tmp_path / "full/note").read_text() == "mine"
    assert (metarun.export(learner, tmp_path / "empty") / "load.py").exists()
    assert (metarun.export(learner, tmp_path / "new/folder") / "load.py").exists()
    assert not list(tmp_path.rglob(".*.tmp"))
