"""index.html shows table.md, with pictures and links that lead to the reports."""

from __future__ import annotations

import io
import urllib.parse
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate
from metarun.errors import UserError
from metarun.results import index, page, result_file, tables
from metarun.results.result import Result
from tests.results.test_web_page import evil, several_norms
from tests.support.html import Parsed
from tests.support.results import result


def run_folder(folder: Path, of: Result, report: str = page.WEB, picture: bytes | None = None) -> Result:
    """A finished run, as ``metarun report`` reads it."""
    folder.mkdir(parents=True)
    result_file.write(folder / "result.json", of)
    (folder / report).write_text("")
    (folder / "curves.png").write_bytes(picture if picture is not None else drawn())
    return result_file.read(folder / "result.json")


def drawn() -> bytes:
    image = io.BytesIO()
    Image.new("RGB", (990, 400), "white").save(image, "PNG")
    return image.getvalue()


def cells(text: str) -> list[list[str]]:
    """Cells of a Markdown table, without titles."""
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_table_is_that_of_the_markdown_and_has_links(tmp_path: Path) -> None:
    strange = "a b#c%d?e:<i>&\"'é"
    found = [
        run_folder(tmp_path / "runs" / strange / "0", result(0, mean=0.91)),
        run_folder(tmp_path / "runs" / strange / "1", result(1, mean=0.93)),
        run_folder(tmp_path / "old", result(way=20), report=page.NAME),
        run_folder(tmp_path / "three", replace(several_norms(), config={"shot": 7})),
    ]
    table, out = tables.rows(found), tmp_path / "out"
    out.mkdir()
    text = index.text(table, out, "runs", [])
    read = Parsed(text)
    rows = [row.split("\n") for row in read.inside["tr"]]
    shown = cells(tables.markdown(table))
    assert len(rows) - 1 == len(shown) == 5
    for row, of in zip(rows[1:], shown, strict=True):
        said = " ".join(row[0].split())
        assert said.endswith(" ".join(" ".join(of).split())), said
    links = {(out / urllib.parse.unquote(link)).resolve() for link in read.attributes("href") if "report" in link}
    assert links == {of.folder / (page.NAME if of.config["way"] == 20 else page.WEB) for of in found if of.folder
                     and "way" in of.config} | {tmp_path / "three" / page.WEB}  # fmt: skip
    assert "seed 1: 93.00 ± 1.00 %" in read.attributes("aria-label")
    assert [tag for tag, _ in read.elements].count("img") == 5 and all(read.attributes("alt"))


def test_what_a_user_named_is_text(tmp_path: Path) -> None:
    attacked = [run_folder(tmp_path / "a", evil()), run_folder(tmp_path / "b", replace(evil(), config={"x": "<b>"}))]
    table = [replace(row, settings={"<i>": "<b>"}) for row in tables.rows(attacked)]
    read = Parsed(index.text(table, tmp_path, "<img src=x>", []))
    tags = [tag for tag, _ in read.elements]
    assert tags.count("script") == 1 and not {"b", "i"} & set(tags) and tags.count("img") == 2
    assert not [name for _, of in read.elements for name in of if name.startswith("on") or name == "style"]
    assert all(source.startswith("data:image/png;base64,") for source in read.attributes("src"))


@pytest.mark.parametrize("damage", [b"", b"no picture", drawn()[:100]])
def test_a_damaged_picture_is_left_out(damage: bytes, tmp_path: Path) -> None:
    found = run_folder(tmp_path / "run", result(), picture=damage)
    read = Parsed(index.text(tables.rows([found]), tmp_path, "run", []))
    assert "img" not in [tag for tag, _ in read.elements] and "seed 0" in read.inside["a"]


def test_many_pictures_are_small(tmp_path: Path) -> None:
    found = [run_folder(tmp_path / str(i), result(way=i)) for i in range(20)]
    assert len(index.text(tables.rows(found), tmp_path, "runs", [])) < 200_000


def test_a_page_of_someone_else_is_not_written_over(tmp_path: Path) -> None:
    index.require_ours(tmp_path)
    (tmp_path / index.NAME).write_text(index.text(tables.rows([result()]), tmp_path, "runs", []))
    index.require_ours(tmp_path)
    (tmp_path / index.NAME).write_text("<!DOCTYPE html><title>My page</title>")
    with pytest.raises(UserError, match=r"index\.html was not written by metarun; choose another folder"):
        index.require_ours(tmp_path)


def test_a_result_of_another_norm_has_its_own_value_over_the_link(tmp_path: Path) -> None:
    found = run_folder(tmp_path / "run", several_norms())
    labels = Parsed(index.text(tables.rows([found]), tmp_path, "run", [])).attributes("aria-label")
    for score in found.scores:
        assert isinstance(score.norm, Norm) and isinstance(score.estimate, Estimate)
        assert f"seed 0: {score.estimate.text(found.metric)}" in labels


def test_an_ensembles_value_stands_over_its_link(tmp_path: Path) -> None:
    alone = result(mean=0.9)
    more = replace(alone.scores[0], ensemble=5, estimate=Estimate(0.95, 0.01, 600, 0))
    found = run_folder(tmp_path / "run", replace(alone, scores=[*alone.scores, more]))
    page = Parsed(index.text(tables.rows([found]), tmp_path, "run", []))
    assert page.attributes("aria-label")[-2:] == ["seed 0: 95.00 ± 1.00 %", "seed 0: 90.00 ± 1.00 %"]
