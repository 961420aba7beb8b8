"""The real command line in an empty folder; wrong input goes through ``main`` in this process, for speed."""

from __future__ import annotations

import csv
import json
import os
import shlex
from pathlib import Path

import pytest
import torch

from metarun import config
from metarun.cli import main as cli
from metarun.cli import train
from metarun.errors import NotFinite, UserError, in_folder
from metarun.runs.experiment import Experiment
from metarun.verify import check
from tests.support.commands import Command

pytestmark = pytest.mark.full

QUICK = [
    "model.filters=8",
    "steps=4",
    "meta_batch=2",
    "eval.every=2",
    "eval.val_tasks=4",
    "eval.tasks=8",
    "log_every=2",
]

WRONG = {  # command -> words that its one line must have
    "trian": "trian no such command train",
    "train algo=mamll": "algo=mamll fomaml imaml maml reptile",
    "train dataset=nothing": "dataset=nothing gaussians glyphs miniimagenet mnist omniglot sinusoid",
    "train device=tpu": "device=tpu auto cpu cuda",
    "train algo=null": "algo=null maml",
    "train ~algo": "algo maml",
    "train algo@other=maml": "algo=maml",
    "train algo.inner_lrr=0.1": "algo.inner_lrr=0.1 algo.inner_lr",
    "train algo.proximal=1": "algo.proximal=1 no such key algo.inner_steps",
    "train algo.inner_steps=five": "algo.inner_steps=five whole number",
    "train algo.inner_steps=2.5": "algo.inner_steps=2.5 whole number",
    "train algo.inner_steps=-1": "algo.inner_steps=-1 >= 0",
    "train algo=reptile algo.eval_inner_steps=0": "algo.eval_inner_steps=0 >= 1",
    "train steps=1e3": "steps=1000.0 whole number (did you mean 1000?)",
    "train steps=99999999999999999999999999": "steps=99999999999999999999999999 <= 1000000000",
    "train algo.inner_steps=100000000": "algo.inner_steps=100000000 <= 100000",
    "eval run='r\nn'": "run=r\\nn config.json",
    "train eval.val_tasks=100000000": "eval.val_tasks=100000000 <= 10000000",
    "train meta_batch=1000000000": "meta_batch=1000000000 <= 1000000",
    "train model.filters=1000000000": "model.filters=1000000000 <= 100000",
    "train model=mlp model.hidden=[100000000]": "model.hidden=[100000000] 1..1000000",
    "train device.threads=100000": "device.threads=100000 1..1024",
    "train device.chunk=99999999999999999999": "device.chunk=99999999999999999999 1..1000000",
    "train algo=MAML": "algo=MAML (did you mean maml?)",
    "train eval.norm=Support": "eval.norm=Support (did you mean support?)",
    "train Algo=maml": "Algo=maml (did you mean algo?)",
    "train recipe=omniglot/maml_5w1s recipe.name=x": "recipe.name=x recipe.budget",
    "bench --seconds -1": "--seconds=-1 > 0",
    "bench --seconds nan": "--seconds=nan > 0",
    "train --resolve": "--resolve --cfg job",
    "train --package algo": "--package --cfg job",
    "train --shell-completion": "--shell-completion --help",
    "train --experimental-rerun x": "--experimental-rerun same command",
    "train --config-name x": "--config-name --config-dir",
    "train --config-path x": "--config-path --config-dir",
    "train --cfg job -m": "--multirun --cfg one at a time",
    "train --nothing": "--nothing",
    "train algo.inner_lr=abc": "algo.inner_lr=abc a number",
    "train algo.inner_lr=-1": "algo.inner_lr=-1.0 > 0",
    "train algo.inner_lr=nan": "algo.inner_lr=nan a number",
    "train algo.outer_lr=inf": "algo.outer_lr=inf a number",
    "train algo.inner_lr=null": "algo.inner_lr=null a number",
    "train algo.clip_norm=0": "algo.clip_norm=0.0 > 0 null",
    "train algo=protonet dataset=sinusoid": "dataset algo=protonet one output for each class",
    "train algo=oracle": "algo=oracle dataset=sinusoid",
    "train algo=pretrain algo.frozen=['head.*']": "algo.frozen head",
    "train algo=pretrain algo.rates=[]": "algo.rates=[] step sizes > 0",
    "train algo=mamlpp algo.multi_step=2": "algo.multi_step=2 0..1",
    "train algo=anil algo.frozen=['*']": "algo.frozen adapt",
    "train algo.hypergrad=stoer": "algo.hypergrad=stoer store recompute first_order",
    "train algo.frozen=body": "algo.frozen=body list",
    "train algo.frozen=[nothing]": "algo.frozen=nothing pattern head.weight",
    "train algo=imaml algo.proximal=0": "algo.proximal=0.0 > 0",
    "train algo=reptile algo.inner_optimizer=sgd": "algo.carry_moments=True inner SGD",
    "train model.filters=0": "model.filters=0 >= 1",
    "train model.norm_gamma=5": "model.norm_gamma=5 true or false",
    "train model=mlp model.hidden=40": "model.hidden=40 list whole number",
    "train dataset=sinusoid model=conv4": "model=conv4 images model=mlp",
    "train dataset=sinusoid dataset.amplitude=[5,1]": "dataset.amplitude low high",
    "train dataset=gaussians way=5": "way=5 2",
    "train dataset=gaussians dataset.spread=0": "dataset.spread=0.0 > 0",
    "train dataset=gaussians model=conv4": "model=conv4 images model=mlp",
    "train dataset=table": "dataset.path= table.csv: there is no such file; data_root",
    "train dataset=table dataset.target=price": "dataset.target=price: must be a list (did you mean [price]?)",
    "train dataset=table dataset.delimiter=semikolon": "dataset.delimiter=semikolon comma, semicolon, tab mean",
    "train dataset=table dataset.predict=numbers": "dataset.task=null predict=numbers",
    "train dataset=arrays dataset.normalise=column": "dataset.normalise=column none, each, channel",
    "train dataset=mnist dataset.split=letters": "dataset.split=letters digits images",
    "train dataset=omniglot dataset.split=mine": "dataset.split=mine maml reptile vinyals lake",
    "train way=1": "way=1 >= 2",
    "train device.compile=yes": "device.compile=yes auto true false",
    "train device.vectorize=batch": "device.vectorize=batch vmap grouped loop",
    "bench --compare learn2learn": "--compare learn2learn reference",
    "bench --seconds soon": "--seconds soon number",
    "bench --json": "--json value",
    "bench init=outputs/run": "init=outputs/run leave it out",
    "bench tracker=comet": "tracker=comet leave it out",
    "bench algo=mamll": "algo=mamll maml",
    "bench algo=reptile --compare reference": "--compare reference maml fomaml",
    "train way=???": "way no value",
    "train way=": "way= whole number",
    "train way=500": "way=500 374 classes",
    "train shot=10 query=5": "10 5 15 12",
    "train query=0": "query=0 >= 1",
    "train seed=-1": "seed=-1 2**63",
    "train eval=5": "eval=5 group of keys eval.tasks",
    "train eval.norm=batch": "eval.norm=batch transductive support support_plus_one all",
    "train eval.tasks=1": "eval.tasks=1 >= 2",
    "train +mine=1": "+mine=1 no such key",
    "train ++eval.mine=1": "++eval.mine=1 no such key",
    "train ~seed": "~seed",
    "train seed=0,1": "seed=0,1 -m",
    "train foo": "foo key=value",
    "train algo.inner_lr=[1": "algo.inner_lr=[1 key=value",
    "train seed=${foo}": "seed foo",
    "train algo.frozen=${seed}": "algo.frozen list",
    "train algo.hypergrad=${seed}": "algo.hypergrad store recompute",
    "train --foo": "--foo",
    "train --config-dir nowhere": "--config-dir nowhere folder",
    "train --cfg nothing": "nothing job",
    "train device.threads=0": "device.threads=0 auto",
    "train device.chunk=many": "device.chunk=many auto",
    "train resume=maybe": "resume=maybe auto never",
    "train run_dir=/proc/nowhere": "/proc/nowhere",
    "train -m seed=0,x": "seed=x whole number",
    "train -m algo=maml,mamll": "algo=mamll reptile",
    "train -m algo.inner_lr=0.1,-0.1": "algo.inner_lr=-0.1 > 0",
    "train -m run_dir=here seed=0,1": "run_dir=here seed",
    "eval": "run",
    "eval run=nowhere": "run=nowhere config.json",
    "report": "path",
    "report nowhere": "nowhere result.json",
    "train algo.segment=3": "algo.segment=3 algo.hypergrad=recompute",
    "train algo=mamlpp algo.multi_step=0 algo.multi_step_until=0.5": "algo.multi_step_until=0.5 algo.multi_step > 0",
    "train algo=reptile algo.inner_optimizer=sgd algo.carry_moments=false algo.eps=1": "algo.eps=1 inner_optimizer",
    "train algo.outer_optimizer=sgd algo.outer_eps=1": "algo.outer_eps=1 algo.outer_optimizer=adam",
    "train algo=protonet algo.inner_steps=3": "algo.inner_steps=3 algo=protonet it is 1",
    "train dataset=sinusoid way=5": "way=5 classes",
    "train dataset=sinusoid dataset.way=5": "dataset.way=5 no such key (did you mean way?)",
    "train lr=0.1": "lr=0.1 no such key algo.inner_lr, algo.outer_lr",
    "train dataset=mnist dataset.preset.inner_lr=3": "dataset.preset.inner_lr=3 belongs to its data set algo.inner_lr",
    "train inner_lr=0.1": "inner_lr=0.1 (did you mean algo.inner_lr?)",
    "train dataset.size=20": "dataset.size=20 no such key; keys: way",
    "train recipe.budget=0.1": "recipe.budget=0.1 recipe=",
    "train --algo maml": "--algo key=value",
    "train algo=reptile algo.train_shot=30": "30 support class A has only 12; lower algo.train_shot",
    "train algo=mann algo.inner_steps=30": "30 support has only 12; lower algo.inner_steps",
    "train eval.shot=13": "13 support (test) has only 12; lower eval.shot or eval.query",
    "eval run=x checkpoint=Best": "checkpoint=Best best, last (did you mean best?)",
    "bench --seconds 1 --json nowhere/b.json": "--json=nowhere/b.json folder",
    "bench --seconds 1 --json /dev/null": "--json=/dev/null plain file",
    "bench --seconds 1 --json .": "--json=. file",
    "bench --seconds=soon": "--seconds soon number",
    "bench --json=": "--json no value",
    "report ''": "path empty",
    "train --config-dir=": "--config-dir no value",
    "train -m seed=range(0)": "seed=range(0) without values",
    "train -m algo=glob(x*)": "algo=glob(x*) without values",
    "train model.hidden=[3]": "model.hidden=[3] no such key; keys: model.filters",
    "bench seed=0,1": "seed=0,1 sweep train -m",
    "train hydra/launcher=submitit_slurm": "hydra/launcher=submitit_slurm one of basic; plugins",
    "train -m hydra/sweeper=optuna seed=0,1": "hydra/sweeper=optuna one of basic; plugins",
    "check way=5": "way=5 algo device",
    "check algo=mamll": "algo=mamll maml",
    "check device=tpu": "device=tpu cpu",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_input_is_one_line_and_status_2(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    status = cli.main(shlex.split(command))
    out, err = capsys.readouterr()
    assert status == 2
    assert err.startswith("metarun: error: ") and err.count("\n") == 1 and "Traceback" not in err
    for word in WRONG[command].split():
        assert word in err
    assert out == "" and not list(tmp_path.iterdir()), "something ran, or was written"


@pytest.mark.parametrize("dataset", ["omniglot", "sinusoid", "gaussians"])  # none needs its data
def test_bench(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_DATA", str(tmp_path))
    words = [f"dataset={dataset}", "steps=50", "meta_batch=2", "query=2", "--json", "b.json"]
    assert cli.main(["bench", *words, "--compare", "reference", "--seconds", "0.1"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("tasks/s", "MB", "convolutions", "times the plain loop"))
    result = json.loads(Path("b.json").read_text())
    for key in ("tasks_per_s", "times_the_reference", "reference_tasks_per_s"):
        assert 0 < result[key]["min"] <= result[key]["median"] <= result[key]["max"]
    assert 0 <= result["share_in_convolutions"] <= 1 and result["peak_memory_mb"] > 10


@pytest.mark.parametrize("how", ["--debug", "HYDRA_FULL_ERROR"])
def test_debug_brings_the_traceback_back(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "HYDRA_FULL_ERROR":
        monkeypatch.setenv(how, "1")
    assert cli.main(["train", "algo=mamll", *(["--debug"] if how == "--debug" else [])]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"]):
        assert cli.main(words) == 0
        text = capsys.readouterr().out
        assert len(text.splitlines()) <= 24
        for name in cli.COMMANDS:
            assert f"metarun {name}" in text
    for name in cli.COMMANDS:
        assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for word in (
        "fomaml | imaml | maml",
        "gaussians | glyphs | image_folder | miniimagenet | mnist | navigation | omniglot | sinusoid",
        "meta_batch: ",
        "eval.norm",
    ):
        assert word in text


FLAGS = (["--hydra-help", "seed=1"], ["--cfg", "hydra"], ["--cfg", "job", "-p", "algo"])


def test_hydras_own_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for words in FLAGS:
        assert cli.main(["train", *words]) == 0, words
        assert capsys.readouterr().out, words
    assert cli.main(["train", "--info", "nothing"]) == 2  # of those there are, Hydra changes this process's logging
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["train", "--cfg", "job", "-p", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_m_stands_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "seed=0,1", "-m", "dataset=sinusoid", "steps=1", "eval.every=0", "eval.tasks=2"]) == 0
    assert len(list((tmp_path / "outputs").glob("*/result.json"))) == 2


def test_compose_refuses_a_sweep() -> None:
    with pytest.raises(UserError, match="seed=1,2: several values are a sweep"):
        config.compose(["seed=1,2"])


def test_cfg_job_prints_the_resolved_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--cfg", "job", "query=4"]) == 0
    out = capsys.readouterr().out
    assert "query: 4" in out.split("eval:")[1] and "${" not in out and "hydra" not in out
    assert not list(tmp_path.iterdir())


def test_choices_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/algo").mkdir(parents=True)
    (tmp_path / "mine/algo/slow.yaml").write_text("defaults:\n  - maml\n  - _self_\ninner_lr: 0.01\n")
    assert cli.main(["train", "--config-dir", "mine", "algo=slow", *QUICK, "run_dir=run"]) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["names"]["algo"] == "slow" and config["values"]["algo"]["inner_lr"] == 0.01
    assert cli.main(["eval", "run=run"]) == 0


def test_a_shell_leaves_the_home_of_config_dir_to_metarun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine/algo").mkdir(parents=True)
    (tmp_path / "mine/algo/slow.yaml").write_text("defaults:\n  - maml\n  - _self_\ninner_lr: 0.01\n")
    assert cli.main(["train", "--config-dir=~/mine", "algo=slow", "--cfg", "job", "-p", "algo"]) == 0
    assert "inner_lr: 0.01" in capsys.readouterr().out


CHOICES = {  # a choice of one's own that cannot be -> words of its one line
    "defaults: [maml\n: x": "bad.yaml line 1 column 11",
    "defaults:\n  - maml\n  - _self_\ninner_lrr: 0.01": "algo=bad: sets algo.inner_lrr",
    "inner_lr: 0.3": "algo=bad: sets algo.inner_lr",
    "defaults:\n  - maml\n  - _self_\ninner_lr: abc": "algo/bad algo.inner_lr abc",
    "defaults:\n  - mamll\n": "algo/bad mamll",
    "- 1": "bad",
}


@pytest.mark.parametrize("text", CHOICES)
def test_a_choice_of_ones_own_that_cannot_be_is_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo/bad.yaml").write_text(text)
    assert cli.main(["train", "--config-dir", str(tmp_path), "algo=bad"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("metarun: error: ") and err.count("\n") == 1
    assert all(word in err for word in CHOICES[text].split()), err


def test_an_evaluation_is_no_sweep_and_has_no_way_without_classes() -> None:
    _, record = config.compose(["dataset=sinusoid"])
    with pytest.raises(UserError, match=r"eval\.norm=all,support: several values are a sweep"):
        config.reopen(record, ["eval.norm=all,support"])
    with pytest.raises(UserError, match="way=3: nothing reads it"):
        config.reopen(record, ["way=3"])


@pytest.mark.parametrize("words", ["report . out=file", "report . out=file/x", "reproduce sinusoid out=file"])
def test_a_file_where_a_folder_is_to_be(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarun.results.result_file.find", lambda paths: [])
    (tmp_path / "file").write_text("mine")
    assert cli.main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("metarun: error: out=file") and "a folder" in err and err.count("\n") == 1


def test_both_checkpoints_of_a_run_are_rows_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["dataset=sinusoid", "steps=3", "meta_batch=2", "eval.tasks=4", "eval.val_tasks=4", "device.compile=false"]
    for every in (1, 0):
        assert cli.main(["train", f"run_dir={every}", *words, f"eval.every={every}", "eval.select=last"]) == 0
        for which in ([], ["checkpoint=best"], ["checkpoint=last"]):
            assert cli.main(["eval", f"run={every}", *which]) == 0
    capsys.readouterr()
    assert cli.main(["report", "1"]) == 0
    with open("1/table.csv") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["eval.select"] for row in rows) == ["best", "last"], "one of them was left out"
    assert cli.main(["report", "0"]) == 0
    with open("0/table.csv") as file:
        assert len(list(csv.DictReader(file))) == 1, "without validation there is one checkpoint"


def test_train_eval_report(metarun: Command, metarun_here: Command, tmp_path: Path) -> None:
    """Training as it is typed; the others in this process, for speed."""
    done = metarun("train", *QUICK, "algo=fomaml")
    assert done.returncode == 0, done.stderr
    assert "meta-test accuracy" in done.stdout and "report: outputs/" in done.stdout
    assert all(line.startswith("meta-train: step ") for line in done.stderr.splitlines()), "of validations"
    assert "val accuracy=" in done.stderr and "\r" not in done.stderr
    (run_dir,) = (tmp_path / "outputs").iterdir()
    assert run_dir.name.endswith("_fomaml_glyphs_5w1s_s0")
    names = {path.name for path in run_dir.iterdir()}
    assert {"result.json", "report.md", "metrics.jsonl", "curves.png", "steps.png", "episodes.png"} <= names
    result = json.loads((run_dir / "result.json").read_text())
    (score,) = result["scores"]
    assert score["tasks"] == 8 and [row["steps"] for row in score["by_steps"]] == [0, 1, 2, 3]
    assert score["mean"] == score["by_steps"][-1]["mean"] and 0 <= score["mean"] <= 1 and score["ci95"] > 0
    stamp = result["protocol"]
    assert {"task", "split", "train_query", "test_query", "train_steps", "test_steps", "test_tasks", "selection",
            "resize", "rotations", "pool_sha256"} <= set(stamp)  # fmt: skip
    assert result["selected"]["validation"]["mean"] > 0 and result["config_hash"] and result["code"]["version"]

    training = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    done = metarun_here("eval", f"run={run_dir}", "eval.norm=all", "eval.tasks=6", "algo.eval_inner_steps=2")
    assert done.returncode == 0, done.stderr
    assert all(path.read_bytes() == data for path, data in training.items()), "evaluation touched the run"
    (evaluation,) = (run_dir / "eval").iterdir()
    scores = json.loads((evaluation / "result.json").read_text())["scores"]
    assert [s["norm"] for s in scores] == ["transductive", "support", "support_plus_one"]
    assert all(s["tasks"] == 6 and len(s["by_steps"]) == 3 for s in scores)
    done = metarun_here("eval", f"run={run_dir}", "way=4")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "head.weight" in done.stderr
    # the training run's own protocol, so its own tasks and figures
    done = metarun_here("eval", f"run={run_dir}")
    again = json.loads(next(p for p in (run_dir / "eval").rglob("result.json") if p.parent != evaluation).read_text())
    assert again["scores"] == result["scores"], done.stderr

    assert metarun_here("train", *QUICK, "algo=fomaml", "seed=1").returncode == 0
    done = metarun_here("report", "outputs")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "outputs/table.csv") as file:
        rows = list(csv.DictReader(file))
    merged = [row for row in rows if row["tasks"] == "8"]
    assert len(merged) == 1 and merged[0]["seeds"] == "2" and float(merged[0]["sd_seeds"]) >= 0
    assert len(rows) == 4 and "| fomaml | glyphs |" in (tmp_path / "outputs/table.md").read_text()


def test_a_sweep_gives_each_job_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", "algo=maml,fomaml", "seed=0,1", *QUICK]) == 0
    runs = [path for path in (tmp_path / "outputs").iterdir() if (path / "result.json").exists()]
    endings = {path.name.split("_", 2)[2] for path in runs}
    assert endings == {f"{algo}_glyphs_5w1s_s{seed}" for algo in ("maml", "fomaml") for seed in (0, 1)}


def test_one_failed_job_does_not_end_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(["train", "-m", "way=200,5", *QUICK]) == 2
    )  # 200 classes: only the data can tell that it is too many
    error, last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("metarun: ")]
    assert error.startswith("metarun: error: way=200: ") and last == "metarun: error: 1 of 2 jobs failed"
    assert len(list((tmp_path / "outputs").glob("*_5w1s_s0/result.json"))) == 1


def test_a_failed_job_is_told_at_once_with_its_settings_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    def fails(experiment: Experiment, record: object, ranks: object) -> None:
        told.append(capsys.readouterr().err)  # what the jobs before have left
        with in_folder(Path(f"outputs/{experiment.seed}")):
            if experiment.seed != 1:
                raise NotFinite("the loss is not finite") if experiment.seed < 3 else OSError("full")

    monkeypatch.setattr("metarun.runs.run.run", fails)
    monkeypatch.setattr(train, "figure", lambda run_dir: None)
    assert cli.main(["train", "-m", "seed=0,1,2,3,2", "steps=3"]) == 3
    last = capsys.readouterr().err.splitlines()
    lines = [line for text in told for line in text.splitlines()]
    assert lines == [
        "metarun: error: seed=0 run_dir=outputs/0: the loss is not finite",
        "metarun: error: seed=2 run_dir=outputs/2: the loss is not finite",
        "metarun: error: seed=3 run_dir=outputs/3: full",
    ]
    assert told[1] and told[3], "at once"
    assert last[-1] == "metarun: error: 4 of 5 jobs failed"


@pytest.mark.drawn
def test_sinusoid_draws_its_figure(metarun_here: Command, tmp_path: Path) -> None:
    done = metarun_here("train", "dataset=sinusoid", "steps=4", "eval.tasks=8", "eval.every=2", "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert "meta-test mse" in done.stdout and "none (no batch norm)" in done.stdout
    assert (tmp_path / "run/sinusoid.png").stat().st_size > 10_000
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["protocol"]["task"] == "10-shot" and len(result["scores"][0]["by_steps"]) == 11


@pytest.mark.drawn
def test_gaussians_draws_its_figure(metarun_here: Command, tmp_path: Path) -> None:
    done = metarun_here("train", "dataset=gaussians", "steps=4", "eval.tasks=8", "eval.every=2", "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert "meta-test accuracy" in done.stdout and "2-way 5-shot" in done.stdout
    assert (tmp_path / "run/points.png").stat().st_size > 10_000 and not (tmp_path / "run/episodes.png").exists()
    assert "(points.png)" in (tmp_path / "run/report.md").read_text()


def test_a_step_size_that_was_learned_cannot_be_set_for_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["dataset=gaussians", "steps=2", "meta_batch=2", "eval.tasks=4", "eval.every=0", "device.compile=false"]
    for algo, status in (("meta_sgd", 2), ("fomaml", 0)):
        assert cli.main(["train", f"algo={algo}", f"run_dir={algo}", *small]) == 0
        assert cli.main(["eval", f"run={algo}", "eval.tasks=6"]) == 0
        assert cli.main(["eval", f"run={algo}", "algo.inner_lr=0.07"]) == status
    assert "algo.inner_lr=0.07: must be as trained, " in capsys.readouterr().err


@pytest.mark.drawn
@pytest.mark.filterwarnings("default")
def test_a_test_that_diverges_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["dataset=sinusoid", "steps=1", "eval.every=0", "eval.tasks=4", "algo.inner_lr=10", "device.compile=false"]
    assert cli.main(["train", *words, "algo.inner_steps=1", "algo.eval_inner_steps=40"]) == 3
    out, err = capsys.readouterr()
    assert "not finite (4 of 4 tasks diverged)" in out and err.count("\n") == 1
    (page,) = tmp_path.glob("outputs/*/report.md")
    by_steps = page.read_text().split("## By inner steps")[1]
    assert "| 40 | not finite (4 of 4 tasks diverged) |" in by_steps
    assert (
        err.startswith("metarun: error: meta-test: 4 of 4 tasks") and "diverged within 40 inner steps (training" in err
    )


def test_check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(check.cases(torch.device("cpu")))  # tests/conformance has all of them
    monkeypatch.setattr(check, "cases", lambda device: [first])
    assert cli.main(["check", "device=cpu", "algo=protonet,boil"]) == 0
    out = capsys.readouterr().out
    assert "finite differences" in out and " 0 wrong" in out


def test_real_omniglot(metarun_here: Command, tmp_path: Path, data_root: Path) -> None:
    done = metarun_here(
        "train", "dataset=omniglot", "run_dir=run", *QUICK, "steps=16", "model.filters=16", "algo=fomaml"
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "run/result.json").read_text())["scores"][0]["mean"] > 0.3
    assert os.environ["METARUN_DATA"]
