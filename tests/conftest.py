"""Shared fixtures: a cache of its own, the real data where it is, and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metarun import config

# mann wants a network that has a state and oracle tasks that can be told; they have tests of their own
ON_IMAGES = [name for name in config.choices("algo") if name not in ("mann", "oracle")]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data goes to a folder that ends with the tests; sub-processes inherit it."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["METARUN_CACHE"] = str(folder)
    torch.set_num_threads(1)  # tiny problems, and two threads on a busy machine are slower than one
    os.environ["OMP_NUM_THREADS"] = "1"
    return folder


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
