"""Shared fixtures: a cache of its own, the real data where it is, and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metarun import config
from metarun.core.meta import Meta

# mann wants a network that has a state and oracle tasks that can be told; they have tests of their own
ON_IMAGES = [name for name in config.choices("algo") if name not in ("mann", "oracle")]
Command = Callable[..., subprocess.CompletedProcess[str]]


def same(one: Meta, other: Meta) -> bool:
    """Whether meta-parameters have equal names, in one order, and equal bits."""
    a, b = one.flat(), other.flat()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def pytest_configure(config: pytest.Config) -> None:
    """Prepared data and compiled kernels go to a folder that ends with the tests; sub-processes inherit it.

    Not by a fixture: test modules ask for the kernels as they are collected.
    """
    folder = tempfile.TemporaryDirectory(prefix="metarun-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["METARUN_CACHE"] = folder.name


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
