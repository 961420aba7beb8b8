"""Finished cells are kept in a zoo: what is taken, what is left out, and the page that lists them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from metarun.cli import main as cli
from metarun.errors import UserError
from metarun.reproduce import zoo as keeping
from metarun.results import result_file
from metarun.results.result_file import sealed
from metarun.runs import checkpoint, zoo

ROOT = Path(__file__).parents[2] / "zoo"
CELL = "sinusoid/maml_5s"
RESULT = result_file.read(ROOT / CELL / "result.json")
SEED = RESULT.seed


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with one finished cell of one seed, as a run leaves it: the zoo's own entry with an optimiser."""
    run = tmp_path / "out/results" / f"{CELL}_s{SEED}"
    shutil.copytree(ROOT / CELL, run)
    path = checkpoint.folder(run) / checkpoint.TESTED
    content = {**checkpoint.read(path), "optimizer": {"moments": torch.ones(9)}, "selection": None}
    path.unlink()
    (checkpoint.folder(run) / checkpoint.LAST).write_bytes(checkpoint.encode(content))
    record = json.loads((run / "config.json").read_text())
    record["values"] |= {"run_dir": str(run), "data_root": "/somewhere"}
    record["command"] = ["train", f"run_dir={run}"]
    (run / "config.json").write_text(json.dumps(sealed({k: v for k, v in record.items() if k != "sha256"})))
    return tmp_path / "out"


def test_a_finished_cell_is_kept_without_what_is_of_this_machine(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    assert keeping.keep(out, [CELL, "sinusoid/maml_10s"], SEED, target) == [CELL], "the other one is not run"
    kept = {path.relative_to(target / CELL).as_posix(): path for path in (target / CELL).rglob("*") if path.is_file()}
    assert kept.keys() == {"config.json", "result.json", "checkpoints/tested.pt"}
    assert str(tmp_path) not in kept["config.json"].read_text() and "/somewhere" not in kept["config.json"].read_text()
    for name, path in kept.items():
        assert path.read_bytes() == (ROOT / CELL / name).read_bytes(), "as the entry that the run was made of"
    assert zoo.names(target) == [CELL]
    assert RESULT.scores[0].estimate.text(RESULT.metric) in (target / zoo.PAGE).read_text()
    assert keeping.keep(out, [CELL], SEED + 1, target) == [], "no run of another seed is finished"


def test_what_does_not_belong_together_is_refused(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, target = out / "results" / f"{CELL}_s{SEED}", tmp_path / "kept"
    last = checkpoint.folder(run) / checkpoint.LAST
    content = checkpoint.read(last)

    def refused(said: str) -> None:
        with pytest.raises(UserError, match=said):
            keeping.keep(out, [CELL], SEED, target)
        assert not target.exists()

    last.write_bytes(checkpoint.encode({**content, "step": 7}))
    refused("last.pt: is of meta-iteration 7, and the result of 70000")
    last.write_bytes(checkpoint.encode({**content, "meta": {k: v.double() for k, v in content["meta"].items()}}))
    refused("has torch.float64, and the zoo keeps torch.float32")
    last.write_bytes(b"no checkpoint")
    refused("damaged checkpoint")
    last.unlink()
    refused("is not there")
    last.write_bytes(checkpoint.encode(content))
    monkeypatch.setattr(keeping, "MOST", 1000)
    refused("its meta-parameters take 10965 bytes, and the zoo keeps 1000 at most")
    result = run / "result.json"
    result.write_text(result.read_text().replace('"mean": 0.', '"mean": 1.'))
    refused("was changed after metarun wrote it")


def test_the_members_of_an_ensemble_are_kept_too(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.folder(out / "results" / f"{CELL}_s{SEED}") / checkpoint.LAST
    content = checkpoint.read(path)
    other = {"step": 5, "value": 0.5, "ci95": 0.1, "meta": content["meta"], "diverged": 0}
    path.write_bytes(checkpoint.encode({**content, "others": [other]}))
    keeping.keep(out, [CELL], SEED, tmp_path / "kept")
    kept = checkpoint.read(checkpoint.folder(tmp_path / "kept" / CELL) / checkpoint.TESTED)
    assert checkpoint.digest(kept["others"]) == checkpoint.digest([other])
    monkeypatch.setattr(keeping, "MOST", 1000)
    with pytest.raises(UserError, match="and the zoo keeps 2000 at most"):
        keeping.keep(out, [CELL], SEED, tmp_path / "kept")
    double = {name: value.double() for name, value in content["meta"].items()}
    path.write_bytes(checkpoint.encode({**content, "others": [{**other, "meta": double}]}))
    with pytest.raises(UserError, match=r"has torch\.float64"):
        keeping.keep(out, [CELL], SEED, tmp_path / "kept")


@pytest.mark.full
def test_the_command_keeps_what_is_finished(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", CELL, "--report", f"out={out}"]
    assert cli.main([*words, f"seed={SEED}", "zoo=kept"]) == 0
    assert f"kept in kept: {CELL}\n" in capsys.readouterr().out and (tmp_path / "kept" / CELL).is_dir()
    assert cli.main([*words, f"seed={SEED + 1}", "zoo=kept"]) == 0
    assert "kept in kept: nothing, since no cell of these is finished" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert cli.main([*words, "zoo=file"]) == 2
    assert "zoo=file: must be a folder" in capsys.readouterr().err


@pytest.mark.full
def test_the_page_is_written_from_the_entries() -> None:
    page = (ROOT / zoo.PAGE).read_text()
    assert page == keeping.page(ROOT)
    for name in zoo.names(ROOT):
        result = result_file.read(ROOT / name / "result.json")
        assert result.recipe is not None and result.recipe.name == name
        assert result.recipe.budget == 1 and not result.recipe.changed and not result.unfinished
        assert (checkpoint.folder(ROOT / name) / checkpoint.TESTED).stat().st_size <= keeping.MOST * result.scores[
            -1
        ].ensemble
        values = json.loads((ROOT / name / "config.json").read_text())["values"]
        assert values["run_dir"] is None and values["data_root"] is None
