from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from metarun import checkpoint
from metarun.checkpoint import Damaged, Selection, TrainState
from metarun.errors import UserError


def state(step: int) -> TrainState:
    meta = {"w": torch.full((3,), float(step))}
    optimizer = torch.optim.Adam([meta["w"]])
    meta["w"].grad = torch.ones(3)
    optimizer.step()
    return TrainState(step, meta, optimizer.state_dict(), Selection(step - 1, 0.5, 0.1, {"w": torch.zeros(3)}))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    saved = state(7)
    checkpoint.save(tmp_path, saved)
    back = checkpoint.load(tmp_path)
    assert back is not None and back.step == 7 and back.selection is not None
    assert torch.equal(back.meta["w"], saved.meta["w"])
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
