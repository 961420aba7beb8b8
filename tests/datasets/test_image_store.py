from __future__ import annotations

import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from metarun.datasets import image_store
from metarun.datasets.image_store import Facts, stored
from metarun.errors import UserError
from metarun.files import checking_sources

SHAPE = (6, 1, 4, 4)
VALUES = np.arange(96, dtype=np.uint8).reshape(SHAPE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(array: np.ndarray) -> Facts:
    array[:] = VALUES
    return {"resized": True}


def never(array: np.ndarray) -> Facts:
    raise AssertionError("made again")


def test_it_is_made_once_and_mapped(cache: Path) -> None:
    first = stored("a", SHAPE, fill)
    again = stored("a", SHAPE, never)
    for one in (first, again):
        assert np.array_equal(one.array, VALUES) and isinstance(one.array, np.memmap)
        assert one.facts == {"resized": True} and one.sha256 == first.sha256
    again.array[0] = 0  # what a user of the array does, is not written
    assert np.array_equal(stored("a", SHAPE, never).array, VALUES)


def test_damaged_files_are_made_again(cache: Path) -> None:
    for damage in (
        lambda: (cache / "a.npy").write_bytes((cache / "a.npy").read_bytes()[:-1]),
        lambda: (cache / "a.npy").write_bytes((cache / "a.npy").read_bytes()[:-1] + b"x"),
        lambda: (cache / "a.npy").unlink(),
        lambda: (cache / "a.json").write_text("{"),
    ):
        stored("a", SHAPE, fill)
        damage()
        with pytest.warns(UserWarning, match=r"a\.npy: damaged \(.*\); making it again"):
            assert np.array_equal(stored("a", SHAPE, fill).array, VALUES)
    (cache / "a.json").unlink()  # as after a kill: without this file the other counts for nothing
    assert np.array_equal(stored("a", SHAPE, fill).array, VALUES)


def test_what_fails_leaves_nothing(cache: Path) -> None:
    with pytest.raises(AssertionError):
        stored("a", SHAPE, never)
    assert [path.name for path in cache.iterdir()] == [".a.lock"]


def test_a_full_disk_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    with pytest.raises(UserError, match=r"take 0\.0 GB on disk, and .*cache has 0\.0 GB free; METARUN_CACHE names"):
        stored("a", SHAPE, never)


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.write_text("a file is in its place")
    with pytest.warns(UserWarning, match="not cached"):
        assert np.array_equal(stored("a", SHAPE, fill).array, VALUES)


def test_sources_are_checked_without_the_cache(cache: Path) -> None:
    with checking_sources():
        assert np.array_equal(stored("a", SHAPE, fill).array, VALUES)
    assert not cache.exists()


@pytest.mark.filterwarnings("always:.*another process makes it")
def test_who_comes_second_waits_and_says_so(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(image_store, "PATIENCE", 0.05)
    made = []

    def slowly(array: np.ndarray) -> Facts:
        made.append(time.monotonic())
        time.sleep(0.3)
        return fill(array)

    threads = [threading.Thread(target=lambda: stored("a", SHAPE, slowly)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and any("another process makes it; waiting" in str(one.message) for one in recwarn)
