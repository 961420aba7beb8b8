"""The pages of docs/: the site builds, and the page on adding a method works as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.full
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    maml = (tmp_path / "methods/maml/index.html").read_text()
    assert "repository/metarun/algorithms/maml.py/" in maml  # code that a page links to is on the site
    assert (tmp_path / "repository/metarun/algorithms/maml.py/index.html").exists()
    assert (tmp_path / "repository/benchmarks/methods/omniglot/table.png").exists()


@pytest.mark.full
def test_the_page_on_adding_a_method_works_as_it_stands(tmp_path: Path) -> None:
    for folder in ("metarun", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    here = os.environ | {"PYTHONPATH": str(tmp_path)}
    commands = 0
    for kind, words, text in BLOCK.findall((ROOT / "docs/adding-a-method.md").read_text()):
        if title := re.search(r'title="([^"]+)"', words):
            path = tmp_path / title.group(1)
            path.write_text((path.read_text() + "\n\n" if "append" in words else "") + text)
        elif kind == "sh":
            command = [sys.executable, "-m", *text.split()]
            ran = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
            assert (ran.returncode != 0) == ("fails" in words), ran.stdout + ran.stderr
            assert ran.returncode == 0 or "definitions.py" in ran.stderr + ran.stdout
            commands += 1
    assert commands == 3
    assert (tmp_path / "runs/mine/report.md").exists()
