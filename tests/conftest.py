"""Shared fixtures: a cache of its own, the real data where it is, and the real command line."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from metarun.cli import main as cli
from tests.support.commands import Command
from tests.support.compositions import remember
from tests.support.runs import drawn, no_figures


def pytest_configure(config: pytest.Config) -> None:
    """Prepared data and compiled kernels go to a folder that ends with the tests; sub-processes inherit it.

    So do the workers of pytest-xdist: they share one folder, and each data set is prepared once.
    Not by a fixture: test modules ask for the kernels as they are collected.
    """
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="metarun-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["METARUN_CACHE"] = folder.name
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    remember(patch, Path(os.environ["METARUN_CACHE"]) / "compositions")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``sampled(n, m)``, always the same n cases run by default and m in the full tier.

    Cases beyond n are marked ``full``, and cases beyond m ``slow``; without m there are none of these.
    """
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for of_one_test in cases.values():
        of_one_test.sort(key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
        marker = of_one_test[0].get_closest_marker("sampled")
        assert marker is not None
        few, many = (*marker.args, len(of_one_test))[:2]
        for item in of_one_test[few:many]:
            item.add_marker(pytest.mark.full)
        for item in of_one_test[many:]:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Path:
    """The folder that ``pytest_configure`` chose; and one thread."""
    torch.set_num_threads(1)  # tiny problems, and two threads on a busy machine are slower than one
    os.environ["OMP_NUM_THREADS"] = "1"
    return Path(os.environ["METARUN_CACHE"])


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; tests that need it skip without, and fail where METARUN_REQUIRE_DATA is set."""
    given = os.environ.get("METARUN_DATA")
    if given and Path(given).is_dir():
        return Path(given)
    reason = f"METARUN_DATA={given or ''} names no folder with omniglot.npz"
    if os.environ.get("METARUN_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[None]:
    """Runs in this process draw no figures: few tests look at them."""
    with no_figures():
        yield


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """They draw them in a test that is marked ``drawn``."""
    with drawn() if request.node.get_closest_marker("drawn") else nullcontext():
        yield


@pytest.fixture
def metarun(tmp_path: Path) -> Command:
    """Run the real command in an empty folder: ``metarun("train", "steps=2")``."""

    def command(
        *words: str, env: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "metarun", *words],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return command


@pytest.fixture
def metarun_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The same in this process, which has imported torch, for tests that need no process of its own."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            status = cli.main(list(words))
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    return command
