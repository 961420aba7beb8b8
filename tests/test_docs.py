"""The pages: a result in them is one that metarun wrote, and tables are what it writes from the committed results."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from metarun.reproduce import cells as reproduce
from metarun.reproduce import table as verdicts
from metarun.results import tables as report

ROOT = Path(__file__).parents[1]
RESULT = re.compile(r"\d+\.\d+ ± \d+\.\d+")
WRITTEN = [ROOT / "benchmarks/RESULTS.md", *sorted((ROOT / "benchmarks/methods").glob("*/table.md"))]


@pytest.mark.parametrize("page", sorted((ROOT / "docs/methods").glob("*.md")), ids=lambda page: page.stem)
def test_every_result_stands_in_a_table_that_was_generated(page: Path) -> None:
    known = {number for table in WRITTEN for number in RESULT.findall(table.read_text())}
    results = page.read_text().split("## Ours and published")[-1]  # or all of it, where there is no such part
    assert set(RESULT.findall(results)) <= known


@pytest.mark.parametrize("note", sorted((ROOT / "benchmarks/results").glob("*/*.md")), ids=lambda note: note.stem)
def test_every_result_in_a_note_stands_in_a_result_file(note: Path) -> None:
    known = set()
    for file in note.parent.glob(f"{note.stem}*/**/result.json"):  # also of the cell's variants, and of evaluations
        result = report.read(file)
        for row in (row for score in result["scores"] for row in score["by_steps"]):
            known |= set(RESULT.findall(report.amount(result["metric"], row["mean"], row["ci95"])))
    assert set(RESULT.findall(note.read_text())) <= known


def test_the_published_tables_are_written_from_the_committed_results(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks/results", tmp_path / "results")
    verdicts.write(tmp_path, reproduce.cells("all"))
    for name in ("RESULTS.md", "RESULTS.csv"):
        assert (tmp_path / name).read_text() == (ROOT / "benchmarks" / name).read_text()


@pytest.mark.parametrize("table", sorted((ROOT / "benchmarks/methods").glob("*/table.md")), ids=lambda t: t.parent.name)
def test_the_methods_tables_are_written_from_the_committed_results(table: Path) -> None:
    rows = report.rows(report.find([table.parent]))
    assert table.read_text() == report.markdown(rows)
