"""Two processes under torchrun, for real: the result of one, printed and written once, however they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
import torch
import torch.distributed

from metarun import config
from metarun.cli import main as cli
from metarun.core import tree
from metarun.engine.ranks import ALONE, Ranks, joined
from metarun.errors import ConfigError
from metarun.runs import checkpoint, journal
from metarun.runs.folder import LOCK
from tests.support.commands import Command
from tests.support.runs import outcome

pytestmark = pytest.mark.full

SMALL = ["meta_batch=5", "eval.val_tasks=5", "eval.tasks=9", "log_every=3"]
SMALL += ["algo.inner_steps=2", "algo.eval_inner_steps=3"]  # fewer to record
CONV = [*SMALL, "model.filters=8"]  # traced, with the kernels
RUN = [*SMALL, "model=mlp", "model.hidden=[8]", "device.compile=false"]  # where it is about processes
LONG = [*RUN, "steps=30", "eval.every=10", "checkpoint_every=7"]
SELDOM = [*LONG, "checkpoint_every=30"]
LOST = "another rank is gone or does not answer"


def launch(folder: Path, *words: str, script: Path | None = None, restarts: int = 0) -> subprocess.Popen[str]:
    """``torchrun --standalone --nproc-per-node=2 -m metarun WORDS``, or a script in metarun's place."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    target = ["-m", "metarun"] if script is None else [str(script)]
    return subprocess.Popen(
        [sys.executable, *torchrun, *target, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


OF_THE_CLOCK = {"split", "seconds", "tasks_per_s", "env_steps_per_s", "seal"}  # and what is made of it


def finish(run: subprocess.Popen[str], seconds: float = 300) -> tuple[str, list[str], str]:
    """What the ranks printed, their lines of stderr, and all of stderr: torchrun reports of failed workers there too.

    Ends what is left of a launcher and its ranks that outlast their time, so that a failure leaves nothing behind.
    """
    workers = pids(run) if run.poll() is None else []
    try:
        out, err = run.communicate(timeout=seconds)
    except BaseException:
        for pid in [*workers, run.pid]:
            os.kill(pid, signal.SIGKILL)
        run.communicate()
        raise
    return out, [line for line in err.splitlines() if line.startswith("metarun: ")], err


def pids(run: subprocess.Popen[str]) -> list[int]:
    """The ranks' processes, rank 0 first: torchrun starts them in order."""
    table = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in table.splitlines()]
    return sorted(pid for parent, pid in rows if parent == run.pid)


def until(holds: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not holds():
        if run.poll() is not None or time.monotonic() > end:
            pytest.fail(f"it never came:\n{finish(run, 1)[2]}")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run = launch(folder, "train", "run_dir=run", *LONG)
    _, _, err = finish(run)
    assert run.returncode == 0, err
    return folder / "run"


@pytest.mark.parametrize(("tasks", "world"), [(5, 2), (16, 3), (7, 7), (3, 5), (1, 1), (0, 2)])
def test_shares_are_every_task_once_in_order_and_even(tasks: int, world: int) -> None:
    shares = [Ranks(rank, world).share(range(100, 100 + tasks)) for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(100, 100 + tasks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = {"w": torch.ones(3)}
    for world in (None, "1"):  # without torchrun, and with it and one process
        if world:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
            monkeypatch.setenv("WORLD_SIZE", world)
        with joined() as alone:
            assert alone == ALONE == Ranks() and not torch.distributed.is_initialized()
            assert alone.first and alone.tells and alone.share(range(7)) == range(7)
            assert alone.mean(grads, 4, 4) is grads and alone.highest(15) == 15 and alone.gather([1, 2]) == [1, 2]
            assert alone.on_first(lambda: 3) == alone.together(lambda: 3) == 3


def test_a_gpu_for_each_rank_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def chosen(local: int) -> contextlib.AbstractContextManager[None]:
        taken.append(local)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", chosen)
    device = config.compose(["device=cuda"])[0].device
    with device.applied(local=1) as where:
        assert where == torch.device("cuda") and taken == [1]
    with pytest.raises(ConfigError, match="device=cuda: must be cpu with more ranks on a machine than the 2 GPUs"):
        device.torch_device(local=2)


def test_a_device_is_left_as_it_was_found() -> None:
    before = torch.get_num_threads()
    device = config.compose(["device=cpu", f"device.threads={before + 1}"])[0].device
    with device.applied():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


TALK = """
import json, sys, torch
from metarun.errors import ConfigError, UserError
from metarun.engine.ranks import joined

def caught(act):
    try:
        return act()
    except UserError as error:
        return [type(error).__name__, str(error), error.status]

def fails(*_):
    raise ConfigError("key", ranks.rank, "something else")

with joined() as ranks:
    torch.manual_seed(0)
    tasks = torch.randn(5, 1000)  # one gradient a task
    mine = tasks[ranks.share(range(5)).start : ranks.share(range(5)).stop]
    means = ranks.mean({"w": mine.mean(0)[:700].view(7, 100), "b": mine.mean(0)[700:]}, len(mine), 5)
    got = {
        "mean": torch.cat([means["w"].flatten(), means["b"]]).tolist(),
        "right": torch.allclose(torch.cat([means["w"].flatten(), means["b"]]), tasks.mean(0), atol=1e-6),
        "highest": [ranks.highest(15 * ranks.rank), ranks.highest(2 - 2 * ranks.rank), ranks.highest(0)],
        "gather": ranks.gather([] if ranks.first else [torch.tensor([4.0]), 5]) == [torch.tensor([4.0]), 5],
        "on_first": ranks.on_first(lambda: ranks.rank),
        "first_fails": caught(lambda: ranks.on_first(fails)),
        "together": ranks.together(lambda: ranks.rank) == ranks.rank,
        "second_fails": caught(lambda: ranks.together(lambda: ranks.rank and fails())),
        "in_step": ranks.gather([ranks.rank]),
    }
    tells = ranks.gather([ranks.tells])
    print("printed by the first alone")
    json.dump({**got, "tells": sorted(tells)}, open(f"{ranks.rank}.json", "w"))
"""


def test_ranks_agree(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK)
    run = launch(tmp_path, script=tmp_path / "talk.py")
    out, _, err = finish(run)
    assert run.returncode == 0, err
    assert out == "printed by the first alone\n"
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second, "of the mean, too, every bit"
    assert first["right"] and first["highest"] == [15, 2, 0] and first["gather"] and first["on_first"] == 0
    assert first["first_fails"] == ["ConfigError", "key=0: must be something else", 2]
    assert first["together"] and first["second_fails"] == ["ConfigError", "key=1: must be something else", 2]
    assert first["in_step"] == [0, 1] and first["tells"] == [False, True]


def test_two_ranks_take_the_same_trust_region_steps_as_one(metarun_here: Command, tmp_path: Path) -> None:
    words = ["train", "dataset=navigation", "dataset.horizon=8", "model.hidden=[8]", "meta_batch=5", "steps=3"]
    words += [
        "shot=4",
        "query=4",
        "eval.every=0",
        "eval.tasks=4",
        "eval.shot=4",
        "eval.query=4",
        "device.compile=false",
    ]
    words += ["algo.trust_region.damping=0.1"]  # with less, conjugate gradient amplifies rounding
    words += ["-m", "algo.trust_region.curvature=exact,differences"]
    folder = "${algo.trust_region.curvature}"
    run = launch(tmp_path, *words, f"run_dir=two/{folder}")
    _, _, err = finish(run)
    assert run.returncode == 0, err
    alone = metarun_here(*words, f"run_dir=one/{folder}")
    assert alone.returncode == 0, alone.stderr
    for curvature in ("exact", "differences"):
        both = [journal.read(tmp_path / world / curvature) for world in ("two", "one")]
        for ours, theirs in zip(*both, strict=True):
            for key in ours.keys() - OF_THE_CLOCK:
                assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-6), (curvature, key)


def test_two_ranks_give_the_result_of_one(metarun_here: Command, tmp_path: Path) -> None:
    words = [*CONV, "steps=7", "eval.every=4", "algo.outer_optimizer=sgd", "eval.norm=all"]  # Adam makes steps of noise
    run = launch(tmp_path, "train", *words)
    out, _, err = finish(run)
    assert run.returncode == 0, err
    assert out.count("run folder: ") == out.count("report: ") == 1 and "2 ranks" in out
    assert "warning" not in err.lower() and "Traceback" not in err
    (two,) = (path for path in (tmp_path / "outputs").iterdir())
    alone = metarun_here("train", "run_dir=one", *words)
    assert alone.returncode == 0, alone.stderr
    one = tmp_path / "one"

    for ours, theirs in zip(journal.read(two), journal.read(one), strict=True):
        assert ours.keys() == theirs.keys() and ours["split"] == theirs["split"]
        for key in ours.keys() - OF_THE_CLOCK:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key
    states = [checkpoint.load(folder) for folder in (two, one)]
    assert states[0] and states[1] and states[0].step == states[1].step == 7
    for ours, theirs in zip(*(tree.leaves(state.meta) for state in states if state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    results = [json.loads((folder / "result.json").read_text()) for folder in (two, one)]
    assert [result["ranks"] for result in results] == [2, 1]
    for got, want in zip(*(result["scores"] for result in results), strict=True):
        assert got["norm"] == want["norm"] and got["tasks"] == want["tasks"] == 9
        for ours, theirs in zip(got["by_steps"], want["by_steps"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)

    again = launch(two.parent.parent, "eval", f"run={two}", "eval.norm=all")  # nine tasks, by two ranks, once more
    out, _, err = finish(again)
    assert again.returncode == 0 and out.count("report: ") == 1, err
    (measured,) = (two / "eval").glob("*/result.json")
    assert json.loads(measured.read_text())["scores"] == results[0]["scores"]


def test_a_rank_that_is_killed_stops_the_other_and_the_run_goes_on_with_the_same_bits(
    whole: Path, tmp_path: Path
) -> None:
    last = tmp_path / "run/checkpoints/last.pt"
    for victim, restarts in ((0, 0), (1, 1)):  # the same command again, and torchrun's own way of saying it
        before = last.stat().st_mtime_ns if last.exists() else 0
        run = launch(tmp_path, "train", "run_dir=run", *LONG, restarts=restarts)
        until(lambda since=before: last.exists() and last.stat().st_mtime_ns > since, run)  # type: ignore[misc]
        killed = time.monotonic()
        os.kill(pids(run)[victim], signal.SIGKILL)
        _, lines, err = finish(run)
        assert len(lines) == 1 and LOST in lines[0] and "the same command resumes" in lines[0], err
        assert (run.returncode == 0) == (tmp_path / "run/result.json").exists() == (restarts == 1), err
        assert restarts or time.monotonic() - killed < 45
    for undisturbed, killed_twice in zip(outcome(whole), outcome(tmp_path / "run"), strict=True):
        assert undisturbed == killed_twice


def bits(run_dir: Path, name: str) -> str:
    """Of a checkpoint, but for the settings in it: one run saved less often than the other."""
    content = checkpoint.read(run_dir / "checkpoints" / name)
    assert content.pop("training")
    return checkpoint.digest(content)


def test_a_signal_to_one_rank_or_to_torchrun_saves_and_the_run_goes_on_with_the_same_bits(
    whole: Path, tmp_path: Path
) -> None:
    steps = []
    for to_one in (True, False):
        run = launch(tmp_path, "train", "run_dir=run", *SELDOM)
        lines = len(journal.read(tmp_path / "run"))
        until(lambda known=lines: len(journal.read(tmp_path / "run")) > known, run)  # type: ignore[misc]
        os.kill(pids(run)[1] if to_one else run.pid, signal.SIGTERM)
        _, told, err = finish(run)
        assert len(told) == 1 and "saved; the same command resumes the run" in told[0], err
        state = checkpoint.load(tmp_path / "run")
        assert state is not None and f"stopped after meta-iteration {state.step} of 30" in told[0]
        steps.append(state.step)
    assert 0 < steps[0] < steps[1] < 30
    run = launch(tmp_path, "train", "run_dir=run", *SELDOM)
    _, _, err = finish(run)
    assert run.returncode == 0, err
    for name in ("last.pt", "best.pt"):
        assert bits(tmp_path / "run", name) == bits(whole, name)
    assert outcome(tmp_path / "run")[2] == outcome(whole)[2]


WRONG = {
    "train meta_batch=1": "meta_batch=1: must be >= 2, the number of ranks",
    "train -m meta_batch=4,1": "meta_batch=1: must be >= 2, the number of ranks",
    "train -m seed=0,1 hydra/launcher=joblib": "hydra/launcher: ",
    "report .": "report: runs in one process",
    "check": "check: runs in one process",
}


@pytest.mark.parametrize("command", WRONG)
def test_what_several_ranks_cannot_do(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "joined", lambda: contextlib.nullcontext(Ranks(0, 2)))
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("metarun: error: ") and err.count("\n") == 1 and WRONG[command] in err
    assert out == "" and not list(tmp_path.iterdir())


def test_more_ranks_than_tasks_is_said_once(tmp_path: Path) -> None:
    run = launch(tmp_path, "train", "meta_batch=1")
    out, lines, err = finish(run)
    assert run.returncode != 0 and out == "" and not list(tmp_path.iterdir())
    assert lines == ["metarun: error: meta_batch=1: must be >= 2, the number of ranks"], err


def test_a_folder_in_use_is_said_once_and_ends_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run" / LOCK):
        run = launch(tmp_path, "train", "run_dir=run", *LONG)
        out, lines, err = finish(run)
    assert run.returncode != 0 and out == ""
    assert lines == ["metarun: error: run_dir=run: another process is running in this folder"], err


def test_one_failed_job_does_not_end_a_sweep(tmp_path: Path) -> None:
    """200 classes are refused by the data, and a learning rate this large by the numbers; the ranks stay in step."""
    run = launch(tmp_path, "train", "-m", "way=200,5", "algo.inner_lr=1e38,0.4", *RUN, "steps=4", "eval.every=0")
    _, lines, err = finish(run)
    assert run.returncode != 0
    assert len(lines) == 4 and sum("way=200: " in line for line in lines) == 2, err
    assert lines[-1] == "metarun: error: 3 of 4 jobs failed"
    assert sum("meta-iteration 1 (tasks 0..4)" in line for line in lines) == 1, err
    assert len(list((tmp_path / "outputs").glob("*_5w1s_s0*/result.json"))) == 1
    assert len(list((tmp_path / "outputs/sweeps").iterdir())) == 1
