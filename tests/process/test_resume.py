"""Killed, damaged, contended, full: a run loses nothing, and ends with the bits of one that was left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarun.cli import main as cli
from tests.support.commands import Command
from tests.support.runs import outcome

pytestmark = pytest.mark.full

SMALL = ["meta_batch=2", "eval.val_tasks=4", "eval.tasks=8", "log_every=3", "algo.inner_steps=2"]
LONG = [*SMALL, "steps=30", "eval.every=10", "checkpoint_every=7"]
CONV = [*LONG, "model.filters=8"]  # traced, with the kernels
PLAIN = ["model=mlp", "model.hidden=[8]", "device.compile=false"]
RUN = [*SMALL, *PLAIN]  # where it is about processes and files


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "metarun", "train", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


KILLS = [
    ("meta_sgd", 1),  # learned step sizes
    pytest.param("reptile", 1, marks=pytest.mark.slow),  # Adam inside, its moments handed on
    pytest.param("maml", 30, marks=pytest.mark.slow),
    pytest.param("imaml", 30, marks=pytest.mark.slow),
    pytest.param("mamlpp", 10, marks=pytest.mark.slow),
]


@pytest.mark.drawn
@pytest.mark.parametrize(("algo", "kills"), KILLS)
def test_killed_again_and_again_ends_with_the_same_bits(
    metarun_here: Command, tmp_path: Path, algo: str, kills: int
) -> None:
    words = [*CONV, f"algo={algo}", "algo.eval_inner_steps=3"]
    assert metarun_here("train", "run_dir=whole", *words).returncode == 0
    chance = random.Random(0)
    last = tmp_path / "killed/checkpoints/last.pt"
    for _ in range(kills):
        run = start(tmp_path, "run_dir=killed", *words)
        before = last.stat().st_mtime_ns if last.exists() else 0
        end = time.monotonic() + 120
        while run.poll() is None and not (last.exists() and last.stat().st_mtime_ns > before):
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1)
        run.kill()
        run.communicate()
    done = metarun_here("train", "run_dir=killed", *words)
    assert done.returncode == 0, done.stderr
    for whole, killed in zip(outcome(tmp_path / "whole"), outcome(tmp_path / "killed"), strict=True):
        assert whole == killed
    assert (tmp_path / "killed/step_sizes.png").exists() is (algo in ("meta_sgd", "mamlpp"))
    assert "already done" in metarun_here("train", "run_dir=killed", *words).stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    words = [*RUN, "steps=100000", "eval.every=0", "checkpoint_every=100000"]
    run = start(tmp_path, *words)
    end = time.monotonic() + 120
    while not any(path.read_text() for path in tmp_path.glob("outputs/*/metrics.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.02)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "saved" in err and "Traceback" not in err
    (run_dir,) = (path for path in (tmp_path / "outputs").iterdir() if path.is_dir())
    saved = (run_dir / "checkpoints/last.pt").stat().st_mtime_ns

    again = start(tmp_path, *words)  # the same command: it resumes in the same folder
    end = time.monotonic() + 120
    log = run_dir / "metrics.jsonl"
    lines = len(log.read_text().splitlines())
    while len(log.read_text().splitlines()) < lines + 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    again.send_signal(number)
    out, _ = again.communicate(timeout=60)
    assert "resuming an unfinished run" in out and str(run_dir.name) in out
    assert (run_dir / "checkpoints/last.pt").stat().st_mtime_ns > saved


def test_interrupting_a_sweep_stops_all_of_it(tmp_path: Path) -> None:
    run = start(tmp_path, "-m", "seed=0,1", *RUN, "steps=100000", "eval.every=0")
    end = time.monotonic() + 120
    while not any(path.read_text() for path in tmp_path.glob("outputs/*/metrics.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert len(list(tmp_path.glob("outputs/*/config.json"))) == 1


def test_a_damaged_last_checkpoint_warns_and_ends_the_same(
    metarun: Command, metarun_here: Command, tmp_path: Path
) -> None:
    words = [*LONG, *PLAIN, "algo=fomaml"]
    assert metarun_here("train", "run_dir=whole", *words).returncode == 0
    run = start(tmp_path, "run_dir=hurt", *words)
    wait_for(tmp_path / "hurt/checkpoints/previous.pt")
    run.kill()
    run.communicate()
    last = tmp_path / "hurt/checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:500])
    done = metarun("train", "run_dir=hurt", *words)
    assert done.returncode == 0 and "warning" in done.stderr and "last.pt: damaged" in done.stderr
    assert outcome(tmp_path / "whole")[1:] == outcome(tmp_path / "hurt")[1:]


def test_one_process_a_folder(metarun_here: Command, tmp_path: Path) -> None:
    run = start(tmp_path, "run_dir=run", *RUN, "steps=100000", "eval.every=0")
    wait_for(tmp_path / "run/config.json")
    second = metarun_here("train", "run_dir=run", *RUN, "steps=100000", "eval.every=0")
    run.kill()
    run.communicate()
    assert second.returncode == 2 and "another process is running in this folder" in second.stderr


def test_another_configuration_is_refused_with_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "run_dir=run", *RUN, "steps=2"]
    assert cli.main(words) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert cli.main([*words, "algo=fomaml", "shot=2"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "shot: 1 there, 2 here" in err and "algo.hypergrad: store there, first_order here" in err
    assert cli.main([*words, "resume=never"]) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    capsys.readouterr()
    assert cli.main(["train", "run_dir=mine", *RUN]) == 2
    assert "no metarun run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != ".lock"] == ["thesis.txt"]


def test_numbers_that_are_not_finite_stop_with_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*RUN, "steps=50", "eval.every=0", "checkpoint_every=1", "log_every=5", "run_dir=run"]
    assert cli.main(["train", *words, "algo.inner_lr=1e38"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "meta-iteration 1 (tasks 0..1)" in err and "last good checkpoint: none was written yet" in err
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: writing a checkpoint fails halfway."""
    limit = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from metarun.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit, "train", "run_dir=run", *RUN, "steps=4", "model.hidden=[32]"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "metarun: error: " in done.stderr and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert ".pt" in done.stderr
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["train", "run_dir=file/run", *RUN]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "run_dir=file/run: cannot be written" in err
