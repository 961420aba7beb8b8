"""report.html says what report.md says, and nothing that a user named becomes HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate
from metarun.core.metric import ACCURACY, SQUARED_ERROR, Metric
from metarun.results import curves, page, svg, training
from metarun.results.result import AfterSteps, Result, Score, Selected
from tests.results.test_curves import lines_of_a_run
from tests.support.html import Parsed
from tests.support.results import RETURN, result, score

EVIL = "\"><script>alert(1)</script><img src=http://x onerror='alert(2)'>\x1b[31m&amp;"
COMMAND = ["train", "algo=maml", "run_dir=/a folder/of 'mine'"]


def several_norms(metric: Metric = ACCURACY) -> Result:
    of = [
        score(norm, [Estimate(0.2 + 0.1 * k + i / 70, 0.013, 600, k) for k in range(4)])
        for i, norm in enumerate((Norm.transductive, Norm.support, Norm.support_plus_one))
    ]
    return replace(result(metric=metric), scores=of)


def acting() -> Result:
    rows = [
        AfterSteps(steps=k, estimate=Estimate(-40.123 + k, 2.5, 40, 0), loss=0.1, beside={"sigma": 0.98 - k / 7})
        for k in range(3)
    ]
    known = {"best possible": Estimate(-0.55, 0.16, 40, 0)}
    of = Score(norm=None, estimate=rows[-1].estimate, by_steps=rows)
    chosen = Selected(rule="best validation", step=40, of=100, validation=Estimate(-38.0, 3.0, None, 2))
    return replace(result(metric=RETURN), scores=[of], yardsticks=known, selected=chosen)


RUNS = {
    "classes, three norms": several_norms(),
    "error": result(metric=SQUARED_ERROR, mean=0.38123, ci95=0.03),
    "return": acting(),
    "diverged": result(mean=float("nan"), diverged=600),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_page_has_every_figure_of_the_markdown_and_no_other(name: str, tmp_path: Path) -> None:
    page.write(tmp_path, RUNS[name], COMMAND, {})
    markdown, read = (tmp_path / page.NAME).read_text(), Parsed((tmp_path / page.WEB).read_text())
    said = " ".join(" ".join(read.inside["main"]).split())
    for line in markdown.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            for cell in filter(None, (cell.strip() for cell in line.strip("|").split("|"))):
                assert cell in said, cell
        elif line and line[0] not in "#`!|":
            assert " ".join(line.split()) in said, line
    amounts = re.compile(r"-?\d+\.\d+(?: ± [\d.]+)?")
    assert set(amounts.findall(said)) <= set(amounts.findall(markdown))
    if name == "return":
        assert "%" not in said.replace("95 %", "")


def test_what_is_pasted_is_what_was_typed(tmp_path: Path) -> None:
    page.write(tmp_path, result(), COMMAND, {})
    typed = "metarun train algo=maml 'run_dir=/a folder/of '\"'\"'mine'\"'\"''"
    assert Parsed((tmp_path / page.WEB).read_text()).inside["code"][0] == typed
    assert f"```\n{typed}\n```" in (tmp_path / page.NAME).read_text()
    page.write(tmp_path, result(), [], {})  # of a run that is older than this
    assert "<h2>Command" not in (tmp_path / page.WEB).read_text()


def evil() -> Result:
    """A result in which all that a user can name is an attack."""
    of = replace(acting().scores[0], by_steps=[replace(row, beside={EVIL: 1.0}) for row in acting().scores[0].by_steps])
    return replace(
        acting(),
        names={"algo": EVIL, "dataset": EVIL},
        scores=[of],
        protocol={**result().protocol, EVIL: EVIL, "task": EVIL, "split": EVIL},
        config={EVIL: EVIL, "seed": 0},
        device=EVIL,
        libraries={EVIL: EVIL},
        yardsticks={EVIL: Estimate(-1.0, 0.1, 40, 0)},
    )


def panels(of: Result, metric: Metric) -> dict[str, list[str]]:
    """The curves of a result, as a run hands them to its page."""
    _, lines = lines_of_a_run(metric, [0.5, 0.6, 0.7])
    drawn = [training.alone(panel) for panel in training.curve_panels(of, lines)]
    made = {"curves.png": drawn, "steps.png": [curves.steps(of)]}
    return {
        name: [svg.inline(figure, f"{name[:2]}{i}") for i, figure in enumerate(each)] for name, each in made.items()
    }


def test_nothing_that_a_user_named_is_html_and_nothing_is_loaded(tmp_path: Path) -> None:
    for name in ("curves.png", "steps.png", "episodes.png"):
        (tmp_path / name).write_bytes(b"picture")
    of = evil()
    page.write(tmp_path, of, ["train", EVIL], panels(of, RETURN))
    text = (tmp_path / page.WEB).read_text()
    read = Parsed(text)
    assert [tag for tag, _ in read.elements].count("script") == 1 and len(read.inside["style"]) == 1
    assert not [name for _, of in read.elements for name in of if name.startswith("on") or name == "style"]
    assert all(source.startswith("data:image/png;base64,") for source in read.attributes("src"))
    assert all(link.startswith(("#", "data:,")) for link in read.attributes("href"))
    assert "\x1b" not in text and "url(h" not in text and "@import" not in text
    assert read.inside["h1"] == [f"{EVIL} on {EVIL}, {EVIL}, seed 0".replace("\x1b", "\\x1b")]


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    page.write(tmp_path, result(), COMMAND, {})
    read = Parsed((tmp_path / page.WEB).read_text())
    (policy,) = (of["content"] for _, of in read.elements if of.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (source,) = read.inside[tag]
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "unsafe" not in policy


def test_plots_are_svg_of_which_no_names_clash_and_points_say_their_values(tmp_path: Path) -> None:
    for name in ("curves.png", "steps.png"):
        (tmp_path / name).write_bytes(b"picture")
    of = several_norms()
    drawn = panels(of, ACCURACY)
    page.write(tmp_path, of, COMMAND, drawn)
    text = (tmp_path / page.WEB).read_text()
    read = Parsed(text)
    names = read.attributes("id")
    used = {link[1:] for link in read.attributes("href") if link.startswith("#")}
    used |= {found for value in read.attributes("clip-path") for found in re.findall(r"#([^)]*)", value)}
    assert len(names) == len(set(names)) and used and used <= set(names)
    assert [tag for tag, _ in read.elements].count("svg") == 3 and "base64" not in text
    titles = set(read.inside["title"][1:])
    for one in of.scores:
        assert one.norm
        for row in one.by_steps:
            assert f"{row.estimate.text(ACCURACY)} at {row.steps}, {one.norm.name}" in titles
    labels = {of["aria-label"] for tag, of in read.elements if tag == "svg"}
    assert "accuracy, % against meta-iteration" in labels and all(labels)
    assert drawn == panels(several_norms(), ACCURACY), "the same result gives the same bytes"


def test_a_plot_that_is_too_large_is_its_png(tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(b"picture")
    page.write(tmp_path, result(), COMMAND, {"curves.png": ["<svg>" + "x" * 500_000 + "</svg>"]})
    text = (tmp_path / page.WEB).read_text()
    assert "<svg>" not in text and base64.b64encode(b"picture").decode() in text and "<h2>Curves</h2>" in text


def test_a_page_that_cannot_be_made_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise KeyError("some reason")

    monkeypatch.setattr("metarun.results.web_page.text", fails)
    with pytest.warns(UserWarning, match=r"report\.html: not written \('some reason'\)"):
        page.write(tmp_path, result(), COMMAND, {})
    assert (tmp_path / page.NAME).exists() and not (tmp_path / page.WEB).exists()


def test_a_long_run_has_a_small_page() -> None:
    """A thousand lines of training and of validation, half of them with tasks that diverged."""
    noise = np.random.default_rng(0).random(2000)
    lines = [
        {"step": 10 * i, "split": split, "accuracy": float(noise[i]), "loss": float(noise[-i]) + 0.1, "ci95": 0.01,
         "tasks": 100, "diverged": i % 2}
        for i in range(1, 1001) for split in ("train", "val")
    ]  # fmt: skip
    drawn = [svg.inline(training.alone(panel), "a") for panel in training.curve_panels(result(), lines)]
    assert sum(map(len, drawn)) < 1_000_000
