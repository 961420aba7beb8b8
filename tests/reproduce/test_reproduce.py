"""Published tables: what is left to run, what is refused, and the table itself; and the real command on a short one."""

from __future__ import annotations

import csv
import functools
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig

from metarun import config
from metarun.cli import main as cli
from metarun.config import composition
from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate
from metarun.errors import UserError
from metarun.reproduce import cells as reproduce
from metarun.reproduce import rows as comparison
from metarun.reproduce import table as verdicts
from metarun.reproduce.verdict import Verdict
from metarun.results.result import AfterSteps, OfRecipe, Result, Score, Selected
from metarun.results.result_file import read as read_result
from metarun.results.result_file import write
from tests.support.results import result as made
from tests.support.results import score

pytestmark = pytest.mark.full

CELL = "sinusoid/maml_5s"
composed = functools.cache(config.recipe)  # what ``config.compose`` makes of the same words, as a test below says


def result(cell: str = CELL, seed: int = 0, budget: float = 1.0, mean: float = 0.4, ci95: float = 0.05) -> Result:
    """A result as a run of the recipe would write it, with the same metric after every number of steps."""
    x, record = composed(cell, budget, seed)
    norms = [Norm.support_plus_one, Norm.transductive] if x.dataset.has_way else [None]
    estimates = [Estimate(mean, ci95, 600, 0)] * (x.algo.eval_inner_steps + 1)
    return replace(
        made(seed, metric=x.dataset.metric),
        names=record.names,
        recipe=OfRecipe(name=cell, budget=budget, changed=[]),
        protocol={"task": "5-shot", "split": "a split", "train_steps": 1, "test_steps": 10},
        scores=[score(norm, estimates) for norm in norms],
        selected=Selected(rule="last step", step=7, of=7, validation=None),
        config=record.identity(),
    )


def put(out: Path, content: Result) -> Path:
    recipe = content.recipe
    assert recipe is not None
    folder = reproduce.folder(out, recipe.name, content.seed, recipe.budget)
    folder.mkdir(parents=True)
    write(folder / "result.json", content)
    return folder / "result.json"


def test_tables_and_cells() -> None:
    assert reproduce.tables() == ["cheetah", "cifar_fs", "fc100", "miniimagenet", "navigation", "omniglot", "sinusoid"]
    assert reproduce.cells("all") == config.choices("recipe")
    assert set(reproduce.cells("sinusoid")) < set(reproduce.cells("all")) and CELL in reproduce.cells("sinusoid")
    assert reproduce.cells(CELL) == [CELL]
    with pytest.raises(UserError, match=r"omniglott: no such table \(did you mean omniglot\?\); tables: cheetah"):
        reproduce.cells("omniglott")


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    cells = reproduce.cells("sinusoid")
    put(tmp_path, result(seed=1))
    assert reproduce.missing(tmp_path, cells, [0, 1, 2], 1.0) == {
        tuple(cells): [0, 2],
        tuple(cell for cell in cells if cell != CELL): [1],
    }
    assert reproduce.missing(tmp_path, [CELL], [1], 1.0) == {}
    assert reproduce.missing(tmp_path, [CELL], [1], 0.5) == {(CELL,): [1]}
    words = reproduce.sweep(tmp_path, cells, [0, 2], 0.5)
    assert f"run_dir='{tmp_path}/results/${{recipe.name}}_s${{seed}}_b0.5'" in words and "seed=0,2" in words


def test_an_edited_result_is_refused(tmp_path: Path) -> None:
    file = put(tmp_path, result())
    assert len(reproduce.results(tmp_path, CELL)) == 1
    file.write_text(file.read_text().replace("0.4", "0.3"))
    with pytest.raises(UserError, match=r"result\.json: was changed after metarun wrote it"):
        comparison.rows(tmp_path, CELL)


@pytest.mark.parametrize("key", ["algo.inner_lr", "eval.tasks", "steps", "eval.select"])
def test_a_result_of_another_protocol_is_refused(tmp_path: Path, key: str) -> None:
    put(tmp_path, replace(result(), config={**result().config, key: 1}))
    with pytest.raises(UserError, match=f"does not fit its recipe: {key} is 1 there"):
        comparison.rows(tmp_path, CELL)


def test_where_a_result_was_made_and_newer_settings_do_not_matter(tmp_path: Path) -> None:
    settings = result().config
    settings.pop("log_every")  # as if this key had come later
    put(tmp_path, replace(result(), config={**settings, "device.threads": "7"}))
    assert comparison.rows(tmp_path, CELL)[0].seeds == 1


def test_a_result_in_another_cells_folder_is_refused(tmp_path: Path) -> None:
    file = put(tmp_path, result())
    other = reproduce.folder(tmp_path, "sinusoid/maml_10s", 0, 1.0)
    shutil.move(file.parent, other)
    with pytest.raises(UserError, match="is not a result of recipe sinusoid/maml_10s"):
        comparison.rows(tmp_path, "sinusoid/maml_10s")


def test_the_table_merges_seeds_and_takes_the_largest_budget(tmp_path: Path) -> None:
    for content in (result(seed=0, mean=0.36), result(seed=1, mean=0.40), result(seed=2, budget=0.5, mean=9.0)):
        put(tmp_path, content)
    one, five, ten = comparison.rows(tmp_path, CELL)
    assert (one.seeds, one.budget, one.ours.mean) == (2, 1.0, pytest.approx(0.38))
    assert [row.steps for row in (one, five, ten)] == [1, 5, 10]
    assert [row.verdict.value for row in (one, five, ten)] == ["above", "reproduced", "reproduced"]
    assert five.difference == pytest.approx(0.0) and five.sd_seeds == pytest.approx(0.02 * 2**0.5)


def test_an_ensemble_is_a_row_beside_the_single_set_of_parameters(tmp_path: Path) -> None:
    """What is published of an ensemble is compared with an ensemble's result alone."""
    cell = "omniglot/mamlpp_20w1s"
    nothing = comparison.rows(tmp_path, cell)
    assert [(row.selection, row.verdict) for row in nothing] == [
        ("", Verdict.not_run),
        ("ensemble of 5", Verdict.not_run),
    ]
    assert [row.published for row in nothing] == [pytest.approx(math.nan, nan_ok=True), 0.9765]
    single = result(cell, seed=0, mean=0.97, ci95=0.001)
    several = [replace(score, ensemble=5, by_steps=made_of(score, 0.976)) for score in single.scores]
    put(tmp_path, replace(single, scores=[*single.scores, *several]))
    put(tmp_path, result(cell, seed=1, mean=0.95))  # in which validation found a single set of parameters
    alone, together = comparison.rows(tmp_path, cell)
    assert (alone.seeds, alone.verdict, alone.ours.mean) == (2, Verdict.no_number, pytest.approx(0.96))
    assert (together.seeds, together.verdict, together.ours.mean) == (1, Verdict.reproduced, pytest.approx(0.976))
    assert together.selection == "ensemble of 5, last step"
    text = verdicts.markdown([alone, together])
    assert "| ensemble of 5, last step | 1 | 1 | 97.60 ± 0.10 % |" in text


def made_of(of: Score, mean: float) -> list[AfterSteps]:
    """The rows of a score with another mean."""
    return [replace(row, estimate=replace(row.estimate, mean=mean)) for row in of.by_steps]


def test_from_three_seeds_on_a_verdict_knows_how_trainings_vary(tmp_path: Path) -> None:
    """Seeds 0.33, 0.35 and 0.40 with 0.01 over tasks: t(2) sd / sqrt(3) = 0.0896, and 0.0901 with the tasks."""
    put(tmp_path, result(seed=0, mean=0.33, ci95=0.01))
    put(tmp_path, result(seed=1, mean=0.35, ci95=0.01))
    _, two, _ = comparison.rows(tmp_path, CELL)
    assert (two.ci95_of, two.ours.ci95, two.verdict) == ("tasks", pytest.approx(0.01), Verdict.above)
    put(tmp_path, result(seed=2, mean=0.40, ci95=0.01))
    _, three, _ = comparison.rows(tmp_path, CELL)
    assert (three.ci95_of, three.ours.ci95) == ("seeds and tasks", pytest.approx(0.0901, abs=1e-4))
    assert (three.ci95_tasks, three.verdict) == (pytest.approx(0.01), Verdict.reproduced), "0.36 and 0.38 +- 0.095"
    put(tmp_path, result(seed=3, mean=9.0, ci95=0.01, budget=0.5))
    assert comparison.rows(tmp_path, CELL)[1] == three, "a seed of another budget is another row's"
    line = next(line for line in verdicts.markdown([three]).splitlines() if CELL in line)
    assert "| 3 (sd 0.0361) | 0.3600 ± 0.0901 | seeds and tasks | 0.3800 |" in line
    columns = next(csv.DictReader(verdicts.comma_separated([three]).splitlines()))
    assert columns["ci95_of"] == "seeds and tasks" and float(columns["ci95_tasks"]) == pytest.approx(0.01)


def test_the_norms_of_a_table_are_rows_of_their_own(tmp_path: Path) -> None:
    cell = "omniglot/reptile_5w1s"
    put(tmp_path, result(cell, mean=0.954, ci95=0.002))
    plain, transductive = comparison.rows(tmp_path, cell)
    assert (plain.norm, plain.verdict) == (Norm.support_plus_one, Verdict.reproduced)
    assert (transductive.norm, transductive.verdict) == (Norm.transductive, Verdict.below)


def test_the_report_holds_table_notes_sources_and_plot(tmp_path: Path) -> None:
    put(tmp_path, result())
    (tmp_path / "results" / f"{CELL}.md").write_text("A smaller step helps.\n")
    text = verdicts.write(tmp_path, reproduce.cells("sinusoid")).markdown()
    whole = (tmp_path / "RESULTS.md").read_text()
    assert (
        text in whole
        and "omniglot" not in whole
        and "A smaller step helps." in whole
        and "Finn et al. 2017, table 2" in whole
    )
    line = next(line for line in text.splitlines() if line.startswith(f"| {CELL} | none | 5 |"))
    for word in ("600", "a split", "last step", "0.4000 ± 0.0500", "0.3800", "+0.020", "reproduced"):
        assert f" {word} " in line
    assert "| sinusoid/pretrain_5s |" in text and "| not run |" in text
    with open(tmp_path / "RESULTS.csv") as file:
        rows = list(csv.DictReader(file))
    assert next(row for row in rows if row["cell"] == CELL)["mean"] == "0.4"
    assert (tmp_path / "RESULTS.png").read_bytes().startswith(b"\x89PNG")
    other = verdicts.write(tmp_path, ["omniglot/maml_5w1s"]).markdown()
    assert CELL not in other and f"| {CELL} |" in (tmp_path / "RESULTS.md").read_text(), "what is done stays"


BRIEF = ["budget=0.0003", "device.compile=false"]  # 21 meta-iterations


def test_reproduce_runs_what_is_missing_and_shares_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def said(*words: str) -> str:
        assert cli.main([*words]) == 0
        return capsys.readouterr().out

    first = said("reproduce", CELL, *BRIEF)
    assert "partial budget" in first and "0.0003" in first
    assert "run folder" not in said("reproduce", CELL, *BRIEF), "nothing is left to run"
    third = said("reproduce", "sinusoid/maml_10s", *BRIEF)
    assert "the same meta-training is done: testing the parameters of" in third
    results = {file.parent.name: read_result(file) for file in (tmp_path / "outputs").rglob("result.json")}
    five, ten = results["maml_5s_s0_b0.0003"], results["maml_10s_s0_b0.0003"]
    assert (five.protocol["task"], ten.protocol["task"]) == ("5-shot", "10-shot")
    assert five.protocol["recipe"] == "sinusoid/maml_5s, budget 0.0003"
    said("train", "recipe=sinusoid/maml_10s", "recipe.budget=0.0003", "device.compile=false", "run_dir=alone")
    assert read_result(tmp_path / "alone" / "result.json").scores == ten.scores, "as if it had trained itself"


def test_an_interrupted_reproduce_goes_on(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "metarun", "reproduce", CELL, "budget=0.01", "device.compile=false"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "outputs/reproduce/results/sinusoid/maml_5s_s0_b0.01/metrics.jsonl"
    until = time.monotonic() + 100
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130 and "saved; the same command resumes" in stderr
    listed = subprocess.run([*words, "--list"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert CELL in listed.stdout and " s " in listed.stdout and "at meta-iteration" in listed.stdout, listed.stderr
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "partial budget" in again.stdout, again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["omniglott"], "omniglott: no such table (did you mean omniglot?)"),
        (
            [],
            "reproduce needs one table: cheetah, cifar_fs, fc100, miniimagenet, navigation, omniglot, sinusoid, all, "
            "or a single cell",
        ),
        (["sinusoid", "omniglot"], "reproduce needs one table"),
        (["sinusoid", "algo.inner_lr=1"], "algo.inner_lr=1: reproduce takes seed, budget, out, zoo, device"),
        (["sinusoid", "seeds=0"], "seeds=0: reproduce takes seed,"),
        (["sinusoid", "seed=a"], "seed=a: must be whole numbers"),
        (["sinusoid", "budget=2"], "budget=2: must be a number > 0 and <= 1"),
        (["sinusoid", "budget=half"], "budget=half: must be a number > 0 and <= 1"),
        (["sinusoid", "--lits"], "--lits: metarun reproduce has no such flag; metarun reproduce --help lists them"),
        (["miniimagenet/maml_5w1s", "data_root=nowhere"], "dataset=miniimagenet"),
    ],
)
def test_bad_input_gets_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *words]) == 2
    line, *more = capsys.readouterr().err.splitlines()
    assert said in line and more in ([], ["metarun: error: 1 of 1 jobs failed"])


def test_a_recipe_composes_to_what_train_would_run() -> None:
    assert config.recipe(CELL) == config.compose([f"recipe={CELL}"])
    assert config.recipe(CELL, 0.1, 3) == config.compose([f"recipe={CELL}", "recipe.budget=0.1", "seed=3"])


def test_a_report_composes_each_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, result())
    composed: list[list[str]] = []
    compose = composition.compose_words

    def counted(words: list[str]) -> DictConfig:
        composed.append(words)
        return compose(words)

    monkeypatch.setattr(composition, "compose_words", counted)
    reproduce._composed.cache_clear()
    verdicts.write(tmp_path, [CELL, "sinusoid/maml_10s"])
    verdicts.write(tmp_path, [CELL, "sinusoid/maml_10s"])
    assert len(composed) == len({tuple(words) for words in composed}) == 2


def test_a_report_of_nothing_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(composition, "compose_words", None)  # nothing is composed for it
    for words in (["--report"], ["--report", "out=typo"], ["sinusoid", "--report", "out=typo"]):
        assert cli.main(["reproduce", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds no finished run of a recipe" in line
    assert list(tmp_path.iterdir()) == []


def test_a_list_writes_to_the_users_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    measured: list[float] = []

    def throughput(experiment: object, seconds: float) -> float:
        measured.append(seconds)
        return 25.0

    monkeypatch.setattr(reproduce.speed, "throughput", throughput)
    out = tmp_path / "out"
    for damaged in ("", '{"a": "b"}', "[]", "{"):
        if damaged:
            (tmp_path / "cache/speeds.json").write_text(damaged)
        text = reproduce.listing(out, [CELL, "sinusoid/maml_10s"], [0], 1.0, ["device=cpu"])
        assert text.splitlines()[1].split() == [CELL, "19.4", "h", "not", "run"]  # 70,000 x 25 tasks at 25 a second
    assert len(measured) == 4, "two cells of one meta-training are measured once"
    reproduce.listing(out, [CELL], [0], 1.0, ["device=cpu"])
    assert len(measured) == 4, "and what is kept is not measured again"
    reproduce.listing(out, [CELL], [0], 1.0, ["device=cpu", "device.vectorize=loop"])
    assert len(measured) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
