"""The pages: a result in them is one that metarun wrote, and tables are what it writes from the committed results."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from metarun.reproduce import cells as reproduce
from metarun.reproduce import table as verdicts
from metarun.results import tables
from metarun.results.result_file import find
from metarun.results.result_file import read as read_result
from tests.test_layers import ORDER

ROOT = Path(__file__).parents[1]
RESULT = re.compile(r"\d+\.\d+ ± \d+\.\d+")
WRITTEN = [ROOT / "benchmarks/RESULTS.md", *sorted((ROOT / "benchmarks/methods").glob("*/table.md"))]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_every_result_stands_in_a_table_that_was_generated(page: Path) -> None:
    known = {number for table in WRITTEN for number in RESULT.findall(table.read_text())}
    results = page.read_text().split("## Ours and published")[-1]  # or all of it, where there is no such part
    assert set(RESULT.findall(results)) <= known


@pytest.mark.parametrize("note", sorted((ROOT / "benchmarks/results").glob("*/*.md")), ids=lambda note: note.stem)
def test_every_result_in_a_note_stands_in_a_result_file(note: Path) -> None:
    known = set()
    for file in note.parent.glob(f"{note.stem}*/**/result.json"):  # also of the cell's variants, and of evaluations
        result = read_result(file)
        for row in (row for score in result.scores for row in score.by_steps):
            known |= set(RESULT.findall(row.estimate.text(result.metric)))
    assert set(RESULT.findall(note.read_text())) <= known


@pytest.mark.full
def test_the_published_tables_are_written_from_the_committed_results(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks/results", tmp_path / "results")
    verdicts.write(tmp_path, reproduce.cells("all"))
    for name in ("RESULTS.md", "RESULTS.csv"):
        assert (tmp_path / name).read_text() == (ROOT / "benchmarks" / name).read_text()


@pytest.mark.parametrize("table", sorted((ROOT / "benchmarks/methods").glob("*/table.md")), ids=lambda t: t.parent.name)
def test_the_methods_tables_are_written_from_the_committed_results(table: Path) -> None:
    rows = tables.rows(find([table.parent]))
    assert table.read_text() == tables.markdown(rows)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
PAGES.append(ROOT / "zoo/README.md")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page}: {link}"


def test_files_that_pages_name_are_there() -> None:
    for page in PAGES:
        for name in re.findall(r"\b(?:metarun|tests|conf)/[\w/]+\.(?:py|yaml|json|cpp|h)\b", page.read_text()):
            invented = "mine" in name or name != name.lower()  # for the reader to write, or words for a name
            assert (ROOT / name).exists() or invented, f"{page}: {name}"


def test_the_import_rule_on_paper_is_the_one_that_is_tested() -> None:
    words = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    assert " ".join(ORDER.split()) in words
