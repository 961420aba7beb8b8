"""How commands begin: --help of each, flags and settings in any order, and nothing imported that is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarun import __version__
from metarun.cli import main as cli
from tests.support.commands import Command

HEAVY = ("torch", "hydra", "matplotlib", "numpy")


def loaded(words: str, heavy: tuple[str, ...], folder: Path) -> tuple[int, set[str], str]:
    """The exit status of a command in a process of its own, which of these modules it imported, and its error."""
    script = (
        "import sys; from metarun.cli.main import main; status = main(sys.argv[2:]);"
        "print([name for name in sys.argv[1].split(',') if name in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(heavy), *words.split()],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, set(eval(done.stdout.splitlines()[-1])), done.stderr


@pytest.mark.parametrize("words", ["--help", "--version", "help", "train --help", "reproduce --help", "trian"])
def test_what_needs_no_torch_imports_none(words: str, tmp_path: Path) -> None:
    status, found, err = loaded(words, HEAVY, tmp_path)
    assert found == set() and status == (2 if words == "trian" else 0), err


@pytest.mark.parametrize(
    "words",
    [
        "train algo=maml stpes=3",
        "train -m algo=maml,mamll",
        "bench stpes=3",
        "train foo",
        "train recipe=omniglot/maml",
        "data check omniglott",
        "data show glyphs dataset.sise=3",
    ],
)
def test_a_wrong_name_is_answered_without_torch(words: str, tmp_path: Path) -> None:
    status, found, err = loaded(words, ("torch", "matplotlib", "numpy"), tmp_path)
    assert status == 2 and err.startswith("metarun: error: ") and found == set()


def test_a_wrong_value_is_answered_without_what_draws_loads_or_compiles(tmp_path: Path) -> None:
    late = ("torchvision", "matplotlib", "torch._dynamo", "torch._inductor", "sympy", "torch.distributed.rpc")
    status, found, err = loaded("train algo.inner_steps=five", ("torch", *late), tmp_path)
    assert status == 2 and "algo.inner_steps=five" in err and found <= {"torch", "torch.distributed.rpc"}


HELP = {  # command -> words that its --help must have
    "train": "usage: metarun train KEY=VALUE --multirun --cfg --config-dir --hydra-help fomaml meta_batch: eval:",
    "eval": "usage: metarun eval run=PATH --run PATH --checkpoint best|last eval.norm data_root",
    "report": "usage: metarun report PATH --out DIR out=DIR table.md table.csv table.png index.html",
    "track": "usage: metarun track PATH tracker=NAME --config-dir outputs/RUN",
    "adapt": "usage: metarun adapt run=PATH support=DIR out=MODEL --checkpoint algo.eval_inner_steps device",
    "export": "usage: metarun export run=PATH [support=DIR|FILE] out=DIR --format FORMAT load.py onnx device",
    "predict": "usage: metarun predict model=MODEL|run=PATH images=DIR|FILES --out CSV eval.norm truth _confusion.csv",
    "data": "usage: metarun data list get NAME check show --out DIR --classes N dataset.* index.html data_root",
    "check": "usage: metarun check --algo NAME,NAME --device auto|cpu|cuda algo=NAME,NAME float64",
    "bench": "usage: metarun bench KEY=VALUE --compare reference --seconds S --json FILE json=FILE",
    "reproduce": "usage: metarun reproduce TABLE --seed --budget --out --list --report miniimagenet, seed=0,1",
}


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_each_command(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "algo=maml", flag]) == 0
    out, err = capsys.readouterr()
    missing = [word for word in [*HELP[command].split(), "--debug", "--version"] if word not in out]
    assert missing == [] and err == ""
    assert cli.main(["help", command]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("words", [["--version"], ["eval", "--version"]])
def test_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"metarun {__version__}\n"


@pytest.mark.parametrize("words", ["eval=5 --debug", "--debug eval=5", "-m eval=5", "eval=5 --multirun"])
def test_flags_of_train_stand_anywhere(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *words.split()]) == 2
    err = capsys.readouterr().err
    assert "eval=5: eval is a group of keys" in err and ("Traceback" in err) == ("--debug" in words)


def test_debug_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--debug", "report", "nowhere"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["out=there .", ". out=there", "--out there .", ". --out=there"])
def test_a_setting_is_a_word_or_a_flag(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finds_nothing: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *words.split()]) == 0
    assert (tmp_path / "there/table.md").exists()


@pytest.mark.filterwarnings("default")
def test_a_page_that_fails_is_a_warning_behind_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finds_nothing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> str:
        raise KeyError("some reason")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarun.results.index.text", fails)
    assert cli.main(["report", "."]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("written: table.md, .csv and .png\n") and (tmp_path / "table.csv").exists()
    assert err == "metarun: warning: index.html: not written ('some reason')\n"


@pytest.fixture
def finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarun.results.result_file.find", lambda paths: [])
    monkeypatch.setattr("metarun.results.curves.comparison", lambda results: None)
    monkeypatch.setattr("metarun.results.axes.save", lambda figure, path: None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("report . out=", "out=: has no value"),
        ("report . --out", "--out: needs a value"),
        ("report . --out=", "--out: has no value"),
        ("eval run=", "run=: has no value"),
        ("eval --runn x", "--runn: metarun eval has no such flag"),
        ("check --algo=", "--algo: has no value"),
        ("reproduce sinusoid --seeds 1", "--seeds: metarun reproduce has no such flag"),
        ("--foo", "--foo: metarun has no such flag"),
        ("train -cn x", "--config-name: metarun has one configuration"),
    ],
)
def test_a_flag_or_setting_that_cannot_be_is_one_line(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"metarun: error: {said}") and err.count("\n") == 1


@pytest.mark.full
def test_a_name_that_the_terminal_cannot_show_is_printed_all_the_same(metarun: Command) -> None:
    name = os.fsdecode(b"caf\xe9")
    done = metarun("report", name, env={"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 2 and "holds no finished run" in done.stderr and "Traceback" not in done.stderr
