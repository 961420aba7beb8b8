"""An installed metarun finds its configuration and its split files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]


def test_a_built_wheel_runs_away_from_the_repository(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("metarun-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    assert "metarun/conf/train.yaml" in names and "metarun/datasets/splits/omniglot_maml.json" in names
    assert {"metarun/zoo/README.md", "metarun/zoo/sinusoid/maml_5s/checkpoints/tested.pt"} <= set(names)
    assert {"metarun/results/page.css", "metarun/results/page.js"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "conf/"))]
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import metarun, metarun.config as c;"
        f"assert metarun.__file__.startswith({str(installed)!r});"
        "from metarun.datasets.omniglot import NamedSplit;"
        "assert metarun.load('zoo:sinusoid/maml_5s', device='cpu').step == 70000;"
        "assert NamedSplit.maml.characters(); c.compose(['algo=reptile', 'dataset=omniglot']); print(c.conf_dir())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed / "metarun/conf"))
