from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun import config
from metarun.cli import main as cli
from metarun.core.meta import Meta
from metarun.errors import UserError
from metarun.files import write_atomic
from metarun.runs import checkpoint, load
from metarun.runs import train as loop
from metarun.runs.checkpoint import Damaged, Selection, TrainState
from metarun.runs.experiment import Select
from metarun.runs.setup import build
from metarun.runs.signals import StopSignals
from tests.support.commands import same


def state(step: int) -> TrainState:
    w = torch.full((3,), float(step))
    optimizer = torch.optim.Adam([w])
    w.grad = torch.ones(3)
    optimizer.step()
    best = Selection(step - 1, 0.5, 0.1, Meta.of({"w": torch.zeros(3)}))
    return TrainState(step, Meta.of({"w": w}, step_sizes={"w": w + 1}), optimizer.state_dict(), best)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    saved = state(7)
    checkpoint.save(tmp_path, saved)
    back = checkpoint.load(tmp_path)
    assert back is not None and back.step == 7 and back.selection is not None
    assert same(back.meta, saved.meta) and back.meta.step_sizes
    assert back.selection.step == 6 and back.selection.value == 0.5
    moments = (s["state"][0]["exp_avg"] for s in (back.optimizer, saved.optimizer))
    assert torch.equal(*moments)
    best = checkpoint.read(checkpoint.folder(tmp_path) / checkpoint.BEST)
    assert best["step"] == 6 and torch.equal(best["meta"]["w"], torch.zeros(3))


def test_bits_depend_on_the_state_alone(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", state(7))
    loaded = checkpoint.load(tmp_path / "a")
    assert loaded is not None
    checkpoint.save(tmp_path / "b", loaded)  # equal values, other objects
    first, second = ((checkpoint.folder(tmp_path / name) / checkpoint.LAST).read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("damage", ["truncated", "empty", "bit", "foreign"])
def test_a_damaged_last_checkpoint_falls_back_to_the_previous(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    last = checkpoint.folder(tmp_path) / checkpoint.LAST
    data = bytearray(last.read_bytes())
    if damage == "bit":
        at = bytes(data).index(torch.full((3,), 2.0).sub(0.001).numpy().tobytes()[:4])
        data[at] ^= 1
    damaged: dict[str, bytes] = {"truncated": bytes(data[: len(data) // 2]), "empty": b"", "bit": bytes(data)}
    last.write_bytes(damaged.get(damage, b"hello"))
    with pytest.warns(UserWarning, match=r"last\.pt: damaged checkpoint"):
        back = checkpoint.load(tmp_path)
    assert back is not None and back.step == 1
    (checkpoint.folder(tmp_path) / checkpoint.PREVIOUS).write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="every checkpoint is damaged"):
        checkpoint.load(tmp_path)


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/metarun-was-here",)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    for path, write in (("torch.pt", torch.save), ("plain.pt", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        write({"format": 1, "sha256": "", "content": Evil()}, tmp_path / path)
        with pytest.raises(Damaged):
            checkpoint.read(tmp_path / path)
    assert not Path("/tmp/metarun-was-here").exists()


def test_a_failed_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, state(1))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, state(2))
    monkeypatch.undo()
    back = checkpoint.load(tmp_path)
    assert back is not None and back.step == 1
    assert not list(checkpoint.folder(tmp_path).glob(".*tmp"))


TINY = [
    "dataset=sinusoid", "model.hidden=[4]", "meta_batch=2", "steps=3", "checkpoint_every=1", "eval.every=2",
    "eval.val_tasks=2", "eval.tasks=2", "algo.inner_steps=1", "algo.eval_inner_steps=1", "device.compile=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is trained and selected, and not tested yet."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["train", *TINY, f"run_dir={run_dir}"]) == 0
    (run_dir / "result.json").unlink()
    return run_dir


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({key: value})


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key)


def poison(content: dict[str, Any]) -> None:
    content["meta"]["head.bias"][0] = float("nan")


def rename(content: dict[str, Any]) -> None:
    content["meta"]["body.bias"] = content["meta"].pop("head.bias")


def double(content: dict[str, Any]) -> None:
    content["meta"]["head.bias"] = content["meta"]["head.bias"].double()


def flat(content: dict[str, Any]) -> None:
    content["meta"]["head.weight"] = content["meta"]["head.weight"].flatten()


def reseed(content: dict[str, Any]) -> None:
    content["training"].update({"seed": 7, "algo.inner_lr": 0.5})


def as_best(content: dict[str, Any]) -> None:
    content.pop("optimizer")
    content.update(content.pop("selection"))


EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {  # what is done to a file -> what its line says
    "seed": (reseed, "other settings .*seed: 7 there, 0 here; algo.inner_lr: 0.5 there"),
    "step beyond": (change("step", 1000), r"meta-iteration 1000 is not one of 0\.\.3"),
    "step below": (change("step", -3), r"meta-iteration -3 is not one of 0\.\.3"),
    "step as text": (change("step", "3"), "meta-iteration 3 is not one of"),
    "step as a truth": (change("step", True), "meta-iteration True is not one of"),
    "no step": (drop("step"), "its entries are not those"),
    "no parameters": (drop("meta"), "its entries are not those"),
    "one more entry": (change("mine", 1), "its entries are not those"),
    "parameters that are none": (change("meta", 5), r"not what metarun writes"),
    "nan": (poison, r"not finite numbers \(head.bias\)"),
    "other names": (rename, "head.bias is missing in its meta-parameters|body.bias is float32"),
    "other type": (double, r"head.bias is float64 \[1\] in its meta-parameters, float32 \[1\] in this run's"),
    "other shape": (flat, r"head.weight is float32 \[4\] in its meta-parameters, float32 \[1, 4\]"),
}
ONLY_LAST: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "an earlier step": (change("step", 2), "it is of meta-iteration 2, and its outer optimiser made 3 steps"),
    "no moments": (lambda c: c["optimizer"].update(state={}), r"state is \{\} for parameter 0"),
    "other moments": (
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)), r"'exp_avg': 'float32 \[7\]'",
    ),
    "other betas": (lambda c: c["optimizer"]["param_groups"][0].update(betas=(0.5, 0.5)), r"betas=\(0.5, 0.5\)"),
    "no betas": (lambda c: c["optimizer"]["param_groups"][0].pop("betas"), r"betas=nothing, this run's \(0.9, 0.999\)"),
    "an optimiser that is none": (change("optimizer", []), "not what metarun writes"),
    "a selection ahead": (lambda c: c["selection"].update(step=4), r"meta-iteration 4 is not one of 0\.\.3"),
    "a selection that is none": (change("selection", {"step": 1}), "its selection is none|not what metarun writes"),
    "a count that is none": (lambda c: c["selection"].update(diverged="3"), "its selection is none"),
    "best.pt in its place": (as_best, "not those of a checkpoint to resume from"),
    "a value that is none": (lambda c: c["selection"].update(value="good"), "its selection is none"),
}  # fmt: skip
CASES = [(checkpoint.LAST, name) for name in {**EDITS, **ONLY_LAST}] + [(checkpoint.BEST, name) for name in EDITS]


@pytest.fixture(scope="module")
def doors() -> Callable[[Path, str], list[Callable[[], object]]]:
    """What resumes from a file, and what tests its parameters."""
    experiment, record = config.compose(TINY)
    bench = build(experiment)

    def of(run_dir: Path, file: str) -> list[Callable[[], object]]:
        which = Select.best if file == checkpoint.BEST else Select.last
        training = lambda: loop.train(bench, run_dir, StopSignals(), record.training())  # noqa: E731
        testing = lambda: load.trained(run_dir, which, bench)  # noqa: E731
        return [testing] if file == checkpoint.BEST else [testing, training]

    return of


@pytest.mark.parametrize(("file", "edit"), CASES)
def test_a_checkpoint_that_is_not_the_runs_own_is_refused_on_both_doors(
    trained: Path, doors: Callable[[Path, str], list[Callable[[], object]]], tmp_path: Path, file: str, edit: str
) -> None:
    """With a checksum that fits: what is edited by accident shows there."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    path = checkpoint.folder(run_dir) / file
    work, said = {**EDITS, **ONLY_LAST}[edit]
    content = checkpoint.read(path)
    work(content)
    write_atomic(path, checkpoint.encode(content))
    for door in doors(run_dir, file):
        with pytest.raises(UserError, match=said) as caught:
            door()
        assert str(caught.value).startswith(f"{path}: does not fit this run: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "said"), [("seed=3", "seed: 3 there, 0 here"), ("model.hidden=[5]", "model.hidden: [5] there")]
)
def test_another_runs_checkpoint_is_refused_and_names_what_differs(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str, said: str
) -> None:
    run_dir, theirs = tmp_path / "run", tmp_path / "other"
    shutil.copytree(trained, run_dir)
    assert cli.main(["train", *TINY, other, f"run_dir={theirs}"]) == 0
    shutil.copytree(checkpoint.folder(theirs), checkpoint.folder(run_dir), dirs_exist_ok=True)
    capsys.readouterr()
    for words in (["train", *TINY, f"run_dir={run_dir}"], ["eval", f"run={run_dir}"]):
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and said in err, err
    assert not (run_dir / "result.json").exists() and not (run_dir / "eval").exists()


def test_a_checkpoint_of_before_goes_on(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the settings in it, which earlier versions did not write."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    for name in (checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST):
        path = checkpoint.folder(run_dir) / name
        content = checkpoint.read(path)
        assert content.pop("training")["seed"] == 0
        write_atomic(path, checkpoint.encode(content))
    checkpoint.folder(run_dir).joinpath(checkpoint.LAST).unlink()  # so that a step is left to go
    assert cli.main(["train", *TINY, f"run_dir={run_dir}"]) == 0
    assert cli.main(["eval", f"run={run_dir}"]) == 0


def test_what_a_kill_left_half_written_is_removed(trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    torn = [f"checkpoints/.{name}.7.tmp" for name in (checkpoint.LAST, checkpoint.BEST)]
    torn += [f".{name}.7.tmp" for name in ("config.json", "result.json", "metrics.jsonl", "report.md", "steps.png")]
    others = [".table.md.7.tmp", ".mine.tmp"]  # a report's, which holds no lock; the user's
    for name in (*torn, *others):
        (run_dir / name).write_bytes(b"half")
    assert cli.main(["train", *TINY, f"run_dir={run_dir}"]) == 0
    assert {str(path.relative_to(run_dir)) for path in run_dir.rglob("*.tmp")} == set(others)


def test_the_best_parameters_are_found_where_their_file_is_lost(trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    path = checkpoint.folder(run_dir) / checkpoint.LAST
    content = checkpoint.read(path)
    content["selection"] = {**content["selection"], "step": 2, "meta": {k: v + 1 for k, v in content["meta"].items()}}
    write_atomic(path, checkpoint.encode(content))
    (checkpoint.folder(run_dir) / checkpoint.BEST).unlink()
    bench = build(config.compose(TINY)[0])
    for which, step in ((Select.best, 2), (Select.last, 3)):
        found = load.trained(run_dir, which, bench)
        assert found["step"] == step and ("value" in found) is (which is Select.best)


@pytest.mark.parametrize("thing", ["folder", "link", "pipe", "unreadable"])
@pytest.mark.parametrize("name", [checkpoint.LAST, checkpoint.PREVIOUS])
def test_what_is_no_file_is_said_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thing: str, name: str
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    path = checkpoint.folder(tmp_path) / name
    path.unlink()
    if thing == "folder":
        path.mkdir()
    elif thing == "link":
        path.symlink_to("nowhere")
    elif thing == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"")
        read_bytes = Path.read_bytes

        def refused(self: Path) -> bytes:
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return read_bytes(self)

        monkeypatch.setattr(Path, "read_bytes", refused)
    said = {"folder": "is a folder", "link": "is a link to", "pipe": "is no plain file"}.get(thing, "Permission denied")
    with pytest.raises(UserError, match=said):
        checkpoint.load(tmp_path)
