"""What ``import metarun`` offers, and at what price."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metarun
from metarun.errors import UserError
from metarun.runs import checkpoint
from metarun.runs.record import CONFIG, LATER
from tests.learner.support import SHORT, drawn, short_run, with_data


def test_importing_it_brings_nothing_heavy() -> None:
    script = "import sys, metarun; print([n for n in ('torch', 'numpy', 'hydra', 'PIL') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_all_that_is_offered_is_there() -> None:
    assert all(getattr(metarun, name) for name in metarun.__all__)
    with pytest.raises(AttributeError, match="no attribute lode"):
        metarun.lode  # noqa: B018


def test_train_and_load_as_in_a_notebook(tmp_path: Path) -> None:
    run = metarun.train([*SHORT, "dataset=sinusoid", f"run_dir={tmp_path / 'a run'}"])
    assert run == tmp_path / "a run" and metarun.load(run, device="cpu").step == 2
    assert metarun.compose(["algo=fomaml"])[1].names["algo"] == "fomaml"
    with pytest.raises(UserError, match="algo=mamll"):
        metarun.train(["algo=mamll"])
    with pytest.raises(UserError, match="is no run folder"):
        metarun.load(tmp_path)


@pytest.mark.full
def test_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    out = capsys.readouterr().out
    assert len(blocks) == 4 and "['ant', 'bee', 'cat', 'dog', 'eel']" in out and "torch.Size([2, 3, 5])" in out


def test_folders_of_older_versions_are_loaded(tmp_path: Path) -> None:
    """As ``metarun eval`` takes them: without checksum, class names, later settings, and the owner of a checkpoint."""
    words = ["algo=maml", "model.filters=4", "algo.eval_later_lr=1.0"]
    run = short_run(tmp_path / "run", *words)
    learner = metarun.load(run, device="cpu")
    tasks = drawn(with_data(learner))
    outputs = learner.adapt(tasks.support_x, tasks.support_y)(tasks.query_x)
    record = json.loads((run / CONFIG).read_text())
    for key in ("sha256", "data"):
        del record[key]
    for key in LATER[("algo", "maml")]:
        del record["values"]["algo"][key]
    (run / CONFIG).write_text(json.dumps(record))
    for path in checkpoint.folder(run).iterdir():
        content = checkpoint.read(path)
        content.pop("training")
        content.pop("diverged", None)
        path.write_bytes(checkpoint.encode(content))
    old = metarun.load(run, device="cpu")
    assert torch.equal(old.adapt(tasks.support_x, tasks.support_y)(tasks.query_x), outputs)


def test_the_checkpoint_can_be_chosen(tmp_path: Path) -> None:
    run = short_run(tmp_path / "run", "model.filters=4", "eval.every=1")
    last = metarun.load(run, checkpoint="last", device="cpu")
    saved = checkpoint.read(checkpoint.folder(run) / checkpoint.LAST)
    assert last.step == 2 and torch.equal(last.state_dict()["head.weight"], saved["meta"]["head.weight"])
    best = checkpoint.read(checkpoint.folder(run) / checkpoint.BEST)
    assert metarun.load(run, device="cpu").step == best["step"]
    with pytest.raises(UserError, match="checkpoint=bst: must be one of best, last"):
        metarun.load(run, checkpoint="bst")


def test_a_tuned_step_size_is_that_of_the_test(tmp_path: Path) -> None:
    """Pretraining that selects the last parameters tunes its step size when it is tested."""
    run = short_run(tmp_path / "run", "algo=pretrain", "model.filters=4", "eval.select=last", "algo.rates=[0.5,0.02]")
    said = json.loads((run / "result.json").read_text())["protocol"]["step_size"]
    assert float(said) in (0.5, 0.02)
    assert metarun.load(run, device="cpu").meta.step_sizes["all"].item() == pytest.approx(float(said))
    (run / "result.json").unlink()
    with pytest.raises(UserError, match="tunes a step size when it is tested; resume it"):
        metarun.load(run)
