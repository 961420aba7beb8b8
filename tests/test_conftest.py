"""The tests leave nothing in the user's folders."""

from __future__ import annotations

import os
from pathlib import Path

WHEN_COLLECTED = os.environ.get("METARUN_CACHE")


def test_modules_are_collected_with_a_cache_of_the_tests_own(own_cache: Path) -> None:
    """Those that ask for the kernels as they are imported had them compiled into the user's cache."""
    assert str(own_cache) == WHEN_COLLECTED
    assert own_cache.name.startswith("metarun-tests-")
