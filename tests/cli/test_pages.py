"""The pages of real runs: which command they show, and, in a real browser, that they work."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from metarun import config
from metarun.cli import main as cli
from metarun.core.metric import ACCURACY, SQUARED_ERROR
from metarun.results import index, page, tables
from metarun.runs.record import Record
from tests.results.test_index import run_folder
from tests.results.test_web_page import COMMAND, evil, panels
from tests.support.browser import CHROMIUM, Browser, browser
from tests.support.html import Parsed
from tests.support.results import RETURN, result

SMALL = ["steps=2", "log_every=1", "eval.every=1", "eval.tasks=6", "eval.val_tasks=4", "meta_batch=2",
         "device.compile=false", "device.threads=1"]  # fmt: skip
KINDS = {  # run folder -> what it is of
    "classes": ["dataset=glyphs", "model.filters=8"],
    "regression": ["dataset=sinusoid", "algo=meta_sgd"],
    "acting": ["dataset=navigation", "dataset.horizon=5", "shot=2", "query=2", "eval.query=2"],
}


def shown_command(folder: Path) -> list[str]:
    """The words of the command that a report shows."""
    shown = Parsed((folder / page.WEB).read_text()).inside["code"][0]
    assert f"```\n{shown}\n```" in (folder / page.NAME).read_text()
    return shlex.split(shown)


@pytest.mark.full
def test_the_command_of_a_report_is_that_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["dataset=gaussians", *SMALL]
    assert cli.main(["train", *small, "algo=fomaml", "run_dir=a 'folder' of mine"]) == 0
    program, command, *words = shown_command(Path("a 'folder' of mine"))
    assert (program, command) == ("metarun", "train") and words == [*small, "algo=fomaml", "run_dir=a 'folder' of mine"]
    assert (
        cli.main(["train", "-m", *small, "seed=3,4", "algo.inner_lr=0.1,0.2", "run_dir=job/${seed}${algo.inner_lr}"])
        == 0
    )
    for folder in ("job/30.1", "job/40.2"):
        _, _, *words = shown_command(Path(folder))
        record = Record.read(Path(folder))
        assert record and config.compose(words)[1].hash() == record.hash()
        assert config.compose(words)[1].values["run_dir"] == folder
    assert cli.main(["eval", "run=job/30.1", "checkpoint=last", "eval.tasks=5"]) == 0
    (evaluation,) = Path("job/30.1/eval").iterdir()
    assert shown_command(evaluation)[1:] == ["eval", "run=job/30.1", "checkpoint=last", "eval.tasks=5"]


@pytest.mark.drawn
@pytest.mark.full
def test_an_older_run_has_a_page_without_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that has no checkpoints any more, of which no figure can be drawn again, has those that are there."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "dataset=gaussians", *SMALL, "run_dir=run"]
    assert cli.main(words) == 0
    run = tmp_path / "run"
    for name in (page.NAME, page.WEB, "checkpoints/last.pt", "checkpoints/best.pt", "checkpoints/previous.pt"):
        (run / name).unlink(missing_ok=True)
    (run / "checkpoints").rmdir()
    assert cli.main(words) == 0
    pictures = [tag for tag, _ in Parsed((run / page.WEB).read_text()).elements].count("img")
    assert pictures == len(list(run.glob("*.png"))) == 3


@pytest.mark.full
def test_report_on_a_terminal_fits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(["train", "-m", "dataset=gaussians", *SMALL, "algo=fomaml,reptile", "run_dir=${algo.outer_lr}"]) == 0
    )
    capsys.readouterr()
    assert cli.main(["report", "."]) == 0
    table = Path("table.md").read_text()
    assert capsys.readouterr().out == f"{table}\nwritten: table.md, .csv and .png, and index.html\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "72")
    assert cli.main(["report", "."]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.split("±")[-2].splitlines())) <= 72 and "In all rows: dataset gaussians" in out
    assert Path("table.md").read_text() == table


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Path:
    """The browser; tests that need it skip without, and fail where METARUN_REQUIRE_BROWSER is set."""
    if CHROMIUM is None:
        reason = "no chromium on this machine: pages are not looked at (apt-get install chromium)"
        if os.environ.get("METARUN_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(CHROMIUM)


@pytest.fixture
def outputs(chromium: Path, tmp_path: Path) -> Path:
    """Runs of each kind, an evaluation, a sweep, and the page of all of them."""
    out = tmp_path / "outputs"
    for name, words in KINDS.items():
        assert cli.main(["train", *words, *SMALL, f"run_dir={out / name}"]) == 0
    assert cli.main(["eval", f"run={out / 'classes'}", "eval.norm=all"]) == 0
    sweep = ["dataset=sinusoid", "algo=reptile", "seed=0,1"]
    assert cli.main(["train", "-m", *sweep, *SMALL, f"run_dir={out}/sweep/${{seed}}"]) == 0
    assert cli.main(["report", str(out)]) == 0
    return out


def open_quietly(page: Browser, file: Path, width: int) -> None:
    """Open a page, and see that it asks for nothing, complains of nothing and fits the window."""
    page.complaints.clear()
    page.requests.clear()
    page.open(file, width)
    assert page.complaints == []
    assert [address for address in page.requests if not address.startswith("data:")] == [file.resolve().as_uri()]
    assert page.value("document.documentElement.scrollWidth") <= width, f"{file}: scrolls sideways"


@pytest.mark.drawn
@pytest.mark.full
def test_pages_in_a_browser(outputs: Path, tmp_path: Path) -> None:
    pages = sorted(outputs.rglob("report.html"))
    assert len(pages) == len(list(outputs.rglob("result.json"))) == 6
    with browser() as page:
        for file in [*pages, outputs / "index.html"]:
            for width in (1280, 390):
                open_quietly(page, file, width)
                plots = "[...document.querySelectorAll('.panel .plot')]"
                assert page.value(f"{plots}.every((plot) => plot.clientWidth > 200)"), f"{file}: too small to read"
            assert page.value("[...document.images].every((image) => image.naturalWidth > 0)")
            wide = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth)"
            assert page.value(f"{wide}.every((box) => box.tabIndex === 0)"), "what scrolls scrolls by keyboard"
            page.screenshot(tmp_path / "page.png")
            assert (tmp_path / "page.png").stat().st_size > 20_000


@pytest.mark.full
def test_the_table_of_runs_sorts_and_filters(chromium: Path, tmp_path: Path) -> None:
    kinds = [
        ("glyphs", "maml", ACCURACY, 0.91),
        ("glyphs", "fomaml", ACCURACY, 0.1005),
        ("navigation", "maml", RETURN, -7.0),
        ("sinusoid", "reptile", SQUARED_ERROR, 10.5),
        ("sinusoid", "maml", SQUARED_ERROR, 9.25),
    ]
    found = []
    for i, (dataset, algo, metric, mean) in enumerate(kinds):
        of = replace(result(metric=metric, mean=mean, memory=i), names={"algo": algo, "dataset": dataset})
        found.append(run_folder(tmp_path / str(i), of))
    text = index.text(tables.rows(found), tmp_path, "runs", tables.by_steps(found))
    (tmp_path / index.NAME).write_text(text)
    seen = "[...document.querySelectorAll('tbody tr')].filter((row) => row.checkVisibility())"
    with browser() as page:
        open_quietly(page, tmp_path / index.NAME, 1280)

        def column(title: str) -> list[str]:
            at = page.value(
                f"[...document.querySelectorAll('thead th')].findIndex((of) => of.textContent === '{title}') + 1"
            )
            return page.value(f"{seen}.map((row) => row.cells[{at}].textContent)")

        def press(title: str) -> None:
            button = f"[...document.querySelectorAll('thead button')].find((of) => of.textContent === '{title}')"
            page.value(f"{button}.click()")

        before = column(tables.RESULT)
        press(tables.RESULT)
        numbers = [float(text.split()[0]) for text in column(tables.RESULT)]
        assert numbers == sorted(float(text.split()[0]) for text in before) and numbers[0] < 0, "the return is negative"
        assert page.value("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"
        press(tables.RESULT)
        assert [float(text.split()[0]) for text in column(tables.RESULT)] == numbers[::-1]
        assert page.value("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
        press("dataset")
        assert column("dataset") == sorted(column("dataset"))
        assert page.value("document.querySelectorAll('[aria-sort]').length") == 1
        for words, left in (
            ("sinusoid REPTILE", {"sinusoid"}),
            ("glyphs", {"glyphs"}),
            ("no such word", set()),
            (" ", None),
        ):
            page.value("document.querySelector('input').focus()")
            page.value("document.querySelector('input').select()")
            page.call("Input.insertText", text=words)
            rows = column("dataset")
            assert set(rows) == left if left is not None else len(rows) == len(before)
            assert page.value("document.querySelector('output').textContent") == f"{len(rows)} of {len(before)} rows"
        assert page.complaints == []


@pytest.mark.full
def test_a_press_copies_the_command(chromium: Path, tmp_path: Path) -> None:
    page.write(tmp_path, result(), COMMAND, {})
    with browser() as shown:
        open_quietly(shown, tmp_path / page.WEB, 390)
        button = "document.querySelector('.copy')"
        assert shown.value(f"{button}.checkVisibility()") and shown.value(f"{button}.textContent") == "Copy command"
        shown.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        shown.call("Page.bringToFront")
        shown.value(f"{button}.click()")
        shown.value("new Promise((done) => setTimeout(done, 300))")
        assert shown.value(f"{button}.textContent") == "Copied"
        assert shown.value("navigator.clipboard.readText()") == shlex.join(["metarun", *COMMAND])
        assert shown.complaints == []


@pytest.mark.full
def test_what_hides_in_a_name_does_not_run(chromium: Path, tmp_path: Path) -> None:
    page.write(tmp_path, evil(), COMMAND, panels(evil(), RETURN))
    with browser() as shown:
        open_quietly(shown, tmp_path / page.WEB, 390)
        assert shown.value("document.scripts.length") == 1 and shown.value("document.images.length") == 0
    attacked = (tmp_path / page.WEB).read_text().replace("</h1>", "</h1><script>alert(1)</script>")
    (tmp_path / page.WEB).write_text(attacked)
    with browser() as shown:
        shown.open(tmp_path / page.WEB, 390)
        assert len(shown.complaints) == 1 and "Content Security Policy" in shown.complaints[0], "were it ever to get in"
