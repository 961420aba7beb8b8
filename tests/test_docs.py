"""The pages: a result in them is one that metarun wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULT = re.compile(r"\d+\.\d+ ± \d+\.\d+")
WRITTEN = [ROOT / "benchmarks/RESULTS.md", *sorted((ROOT / "benchmarks/methods").glob("*/table.md"))]


@pytest.mark.parametrize("page", sorted((ROOT / "docs/methods").glob("*.md")), ids=lambda page: page.stem)
def test_every_result_stands_in_a_table_that_was_generated(page: Path) -> None:
    known = {number for table in WRITTEN for number in RESULT.findall(table.read_text())}
    results = page.read_text().split("## Ours and published")[-1]  # or all of it, where there is no such part
    assert set(RESULT.findall(results)) <= known
