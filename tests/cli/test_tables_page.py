"""The example of docs/tables.md does what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from metarun import config
from metarun.cli import main as cli
from metarun.results.result_file import read
from tests.support.own_tables import QUICK

PAGE = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()
EXAMPLE = PAGE.split("## An example")[1].split("\n## ")[0]
USE = PAGE.split("## A trained run, used")[1].split("\n## ")[0]


@pytest.mark.full
def test_the_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", EXAMPLE, re.S)
    exec(compile(code, "docs/tables.md", "exec"), {})
    (commands,) = re.findall(r"```\n(metarun .*?)```", EXAMPLE, re.S)
    train, test = (shlex.split(line)[1:] for line in commands.splitlines())
    quick = [word for word in QUICK if not word.startswith(("shot", "query"))]
    assert cli.main([*train, *quick, "steps=20"]) == 0 and cli.main(test) == 0
    result = read(tmp_path / "outputs" / "machines" / "result.json")
    assert result.protocol["split"] == "own 19/5/6 tasks by machine, split_seed 0"
    assert result.protocol["task"] == "5-shot" and "rmse of temperature" in result.scores[0].by_steps[-1].beside

    title, *rows = (tmp_path / "machines.csv").read_text().splitlines()
    known, unknown = rows[:5], [row for row in rows[5:] if row.startswith("M0,")]
    (tmp_path / "new_machine.csv").write_text("\n".join([title, *known]))
    (tmp_path / "more_of_it.csv").write_text("\n".join([title, *unknown]))
    for line in re.findall(r"^metarun (.*)$", USE, re.M):
        assert cli.main(shlex.split(line)) == 0
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + len(unknown)


def test_the_page_lists_every_setting_of_a_table() -> None:
    listed = set(re.findall(r"^\| `dataset\.(\w+)` \|", PAGE, re.M))
    known = set(config.compose(["dataset=table"])[1].values["dataset"]) - {"preset"}
    assert listed | {"shares", "split_seed"} == known and "`dataset.shares` and `dataset.split_seed`" in PAGE
    for name in set(config.compose(["dataset=arrays"])[1].values["dataset"]) - known - {"preset"}:
        assert f"`dataset.{name}`" in PAGE
