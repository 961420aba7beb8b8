"""A run that starts from given parameters takes what fits, says what does not, and is another run than without."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.cli import main as cli
from metarun.compat.torchvision import torchvision
from metarun.errors import UserError
from metarun.results.result_file import read as read_result
from metarun.runs import checkpoint, source
from metarun.runs.record import CONFIG, Record
from metarun.runs.setup import build
from metarun.runs.source import begin
from metarun.runs.start import Start

TINY = [
    *("model=mlp", "model.hidden=[4]", "meta_batch=2", "steps=4", "eval.every=2", "eval.val_tasks=4", "eval.tasks=8"),
    *("algo.inner_steps=1", "device.compile=false", "checkpoint_every=1"),
]
Refused = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(["train", f"run_dir={run_dir}", *TINY]) == 0
    return run_dir


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run, below the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "first")
    return tmp_path / "first"


def taken(where: Path | str, *words: str) -> tuple[dict[str, Tensor], Start]:
    setup, start = begin(build(config.compose([*TINY, *words])[0]), source.read(str(where)))
    return setup.first_meta().flat(), start


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main(["train", *TINY, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.full
def test_a_run_begins_where_another_ended(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, last = (checkpoint.read(run / "checkpoints" / name) for name in (checkpoint.BEST, checkpoint.LAST))
    for where, content in ((run, best), (run / "checkpoints/last.pt", last)):
        meta, start = taken(where, "seed=3")
        assert meta.keys() == content["meta"].keys() and not start.left and not start.new
        assert all(torch.equal(meta[name], value) for name, value in content["meta"].items())
        assert f"meta-iteration {content['step']}" in start.told
    assert "maml on glyphs, seed 0" in start.told and start.trained[0].kind == "glyphs" and start.trained[0].data
    capsys.readouterr()
    words = ["train", "run_dir=second", "init=first", "seed=1", *TINY]
    assert cli.main(words) == 0
    assert "init: took 4 of 4 meta-parameters from first: maml on glyphs, seed 0 (best" in capsys.readouterr().out
    result = read_result(Path("second/result.json"))
    assert result.protocol["init"].startswith("first: maml on glyphs") and "not known" not in result.protocol["init"]
    record = Record.read(Path("second"))
    assert record and record.start and result.config["init (sha256)"] == record.start.sha256[:16]
    assert cli.main(["eval", "run=second", "eval.tasks=5"]) == 0
    (again,) = Path("second/eval").glob("*/result.json")
    assert read_result(again).protocol["init"] == result.protocol["init"]
    assert cli.main(["train", "run_dir=third", "init=second", *TINY]) == 0
    assert "before that: first: maml" in read_result(Path("third/result.json")).protocol["init"]


@pytest.mark.full
def test_what_was_taken_and_not_its_path_is_part_of_the_identity(run: Path, capsys: Refused) -> None:
    assert cli.main(["train", "run_dir=second", "init=first", *TINY]) == 0
    shutil.move("first", "elsewhere")
    capsys.readouterr()
    assert cli.main(["train", "run_dir=second", "init=elsewhere", *TINY]) == 0
    assert "meta-test" not in capsys.readouterr().err
    assert "init (sha256): " in refused(capsys, "run_dir=second")
    content = checkpoint.read(Path("elsewhere/checkpoints/best.pt"))["meta"]
    torch.save(content, "same.pt")
    assert cli.main(["train", "run_dir=second", "init=same.pt", *TINY]) == 0
    assert "meta-test" not in capsys.readouterr().err
    torch.save({**content, "head.bias": content["head.bias"] + 1}, "other.pt")
    assert "init (sha256): " in refused(capsys, "run_dir=second", "init=other.pt")
    assert "nothing is there" in refused(capsys, "run_dir=second", "init=first")


def test_what_does_not_fit_is_listed_with_the_reason(run: Path) -> None:
    meta, start = taken(run, "way=3", "algo=meta_sgd")
    assert start.left == {
        "head.weight": "has shape [5, 4], and here [3, 4]",
        "head.bias": "has shape [5], and here [3]",
    }
    assert start.taken == ["body.1.weight", "body.1.bias"]
    assert {"head.weight", "head.bias", "inner.lr.head.bias"} <= set(start.new)
    random = build(config.compose([*TINY, "way=3", "algo=meta_sgd"])[0]).first_meta().flat()
    assert all(torch.equal(meta[name], random[name]) for name in start.new)
    lines = "\n".join(start.lines())
    assert "took 2 of 8" in lines and "head.bias (has shape [5], and here [3])" in lines
    assert Start.from_json(json.loads(json.dumps(start.to_json()))) == start


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_of_parameters(run: Path, suffix: str) -> None:
    best = checkpoint.read(run / "checkpoints/best.pt")["meta"]
    extra = {**best, "step": torch.tensor(3), "head.bias": best["head.bias"].to(torch.float64)}
    if suffix == "pt":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in extra.items()}}, "file.pt")
    else:
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(extra, "file.safetensors", {"format": "pt"})
    meta, start = taken(f"file.{suffix}", "seed=5")
    assert start.left == {"step": "this run has no such parameter"} and not start.new
    assert all(torch.equal(meta[name], value) and meta[name].dtype == value.dtype for name, value in best.items())
    assert "what they were trained on is not known" in start.stamp()


def test_a_safetensors_file_says_what_it_needs(run: Path, capsys: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert "pip install 'metarun[safetensors]'" in refused(capsys, "init=x.safetensors")


def test_what_cannot_be_used_is_one_line(run: Path, capsys: Refused) -> None:
    best = checkpoint.read(run / "checkpoints/best.pt")["meta"]
    torch.save({"weight": torch.ones(2)}, "alien.pt")
    torch.save({**best, "head.bias": best["head.bias"] * float("nan")}, "nan.pt")
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    torch.save({"a": 1}, "empty.pt")
    Path("noise.pt").write_bytes(b"noise")
    Path("cut.safetensors").write_bytes((900).to_bytes(8, "little") + b"{")
    Path("folder").mkdir()
    said = {
        "alien.pt": "nothing of it fits the network (weight: this run has no such parameter); the network has body.1",
        "nan.pt": "head.bias has values that are no finite numbers",
        "module.pt": "save a state_dict",
        "empty.pt": "holds no tensors by name",
        "noise.pt": "is damaged",
        "folder": "no config.json",
        "nowhere": "nothing is there",
    }
    if util.find_spec("safetensors"):
        said["cut.safetensors"] = "no whole safetensors file"
    for where, text in said.items():
        with pytest.raises(UserError) as caught:
            taken(where)
        assert text in str(caught.value) and "\n" not in str(caught.value), where
    assert "nothing of it fits" in refused(capsys, "init=alien.pt", "run_dir=new")
    assert not Path("new").exists()
    path = run / "checkpoints/best.pt"
    path.write_bytes(path.read_bytes()[:-40])
    assert "damaged checkpoint" in refused(capsys, "init=first")


@pytest.mark.full
def test_torchvision_is_read_and_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = ["model=resnet18", "meta_batch=1", "eval.tasks=2", "eval.every=0", "device.compile=false"]
    assert cli.main(["train", "init=torchvision", *words]) == 2
    assert "resnet18-f37072fd.pth is not there, and metarun downloads no weights" in capsys.readouterr().err
    theirs = torchvision().models.resnet18().state_dict()
    torch.save(theirs, "weights")
    name = f"resnet18-{hashlib.sha256(Path('weights').read_bytes()).hexdigest()[:8]}.pth"
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    shutil.move("weights", tmp_path / "hub/checkpoints" / name)
    entry = SimpleNamespace(url=f"https://nowhere/{name}")
    monkeypatch.setattr(torchvision().models, "ResNet18_Weights", SimpleNamespace(IMAGENET1K_V1=entry))
    setup, start = begin(build(config.compose(words)[0]), source.read("torchvision"))
    assert start.trained[0].kind == "imagenet" and "torchvision's resnet18-" in start.told
    assert start.new == ["body.conv1.weight", "head.weight", "head.bias"]  # grey images; five classes
    assert start.left["conv1.weight"] == "has shape [64, 3, 7, 7], and here [64, 1, 7, 7]"
    assert start.left["bn1.running_mean"] == "this run has no such parameter"
    meta = setup.first_meta().model
    assert torch.equal(meta["body.layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])
    mini = {"classes": {"train": [], "val": [], "test": ["n01532829", "n02110341"]}, "pool_sha256": None}
    with pytest.raises(UserError, match="2 of the 2 test classes are called as classes of ImageNet"):
        start.refuse_seen(mini, "miniimagenet", {})
    shutil.copy(tmp_path / "hub/checkpoints" / name, "copy.pth")
    assert source.read("copy.pth").trained[0].kind is None  # what it is called says nothing
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "hub/checkpoints" / name)
    with pytest.raises(UserError, match="does not begin with the checksum in its name"):
        source.read("torchvision")


def test_classes_that_the_first_parameters_saw_are_refused(run: Path, capsys: Refused) -> None:
    """Also in a test, and through a run between."""
    record = Record.read(run)
    assert record is not None and record.data is not None
    content = json.loads((run / CONFIG).read_text())
    classes = content["data"]["classes"]
    classes["train"], classes["test"] = classes["test"], classes["train"]  # as if it were another split
    del content["sha256"]
    (run / CONFIG).write_text(json.dumps(content))
    said = refused(capsys, "init=first", "run_dir=second")
    assert "init: first: maml on glyphs" in said and "156 were meta-trained on" in said
    assert not Path("second").exists()
    (run / CONFIG).write_text(json.dumps({**content, "data": record.data}))
    assert cli.main(["train", *TINY, "init=first", "run_dir=second"]) == 0
    second = json.loads(Path("second/config.json").read_text())
    second["start"]["trained"][0]["data"] = content["data"]
    del second["sha256"]
    Path("second/config.json").write_text(json.dumps(second))
    capsys.readouterr()
    assert cli.main(["eval", "run=second"]) == 2
    assert "156 were meta-trained on" in capsys.readouterr().err


@pytest.mark.full
def test_a_damaged_list_of_what_was_taken_is_said(run: Path, capsys: Refused) -> None:
    assert cli.main(["train", *TINY, "init=first", "run_dir=second"]) == 0
    content = json.loads(Path("second/config.json").read_text())
    del content["sha256"]
    damages: list[dict[str, Any]] = [{"told": 3}, {"trained": []}, {"more": 1}, {"trained": [{}]}]
    for damage in damages:
        Path("second/config.json").write_text(json.dumps({**content, "start": {**content["start"], **damage}}))
        assert "config.json: damaged" in refused(capsys, "init=first", "run_dir=second")
