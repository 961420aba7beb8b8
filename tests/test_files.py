from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from metarun.files import (
    cache_dir,
    cached_arrays,
    default_data_root,
    user_path,
    write_atomic,
    write_json,
    write_text,
)


def test_writes_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    write_atomic(path, b"new", keep_old=tmp_path / "before")
    assert path.read_bytes() == b"new" and (tmp_path / "before").read_bytes() == b"old"

    def fails(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"):
        write_atomic(path, b"newer")
    assert path.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 2


def test_a_system_that_opens_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def as_windows(path: Path, *rest: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", as_windows)
    path = tmp_path / "f"
    with pytest.raises(PermissionError):
        write_atomic(path, b"old")
    monkeypatch.setattr("metarun.files.WINDOWS", True)
    write_atomic(path, b"new", keep_old=tmp_path / "before")
    assert path.read_bytes() == b"new" and (tmp_path / "before").read_bytes() == b"old"


def test_the_home_folder_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("METARUN_CACHE", "~/c")
    monkeypatch.setenv("METARUN_DATA", "~/d")
    assert (cache_dir(), default_data_root()) == (tmp_path / "c", tmp_path / "d")
    assert user_path("~") == tmp_path and user_path("a/~") == Path("a/~")
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    """Bare NaN is no JSON, though Python writes and reads it."""
    write_json(tmp_path / "f", {"a": [1.5, float("nan"), (float("-inf"), np.float64("inf"))], "b": "NaN", "c": True})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads((tmp_path / "f").read_text(), parse_constant=refuse)
    assert read == {"a": [1.5, None, [None, None]], "b": "NaN", "c": True}


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("METARUN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "metarun"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home/.cache/metarun"


def test_a_cache_that_cannot_be_written_warns_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cache|Not a directory|damaged"):
        assert cached_arrays("a", lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]


def test_a_cache_with_other_bits_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What its compression makes of them is an error of zlib's own, and what zip makes of them one of many kinds."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    made = {"x": np.arange(300) % 7}
    cached_arrays("a", lambda: made)
    whole = (tmp_path / "a.npz").read_bytes()
    for at in range(0, len(whole), 3):
        for bit in range(8):
            (tmp_path / "a.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert cached_arrays("a", lambda: made)["x"].tolist() == made["x"].tolist(), (at, bit)
            assert all("a.npz: damaged (" in str(warning.message) for warning in caught)


def test_a_text_may_hold_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "f", f"dataset.path = {name}, \ud800\n")
    assert (tmp_path / "f").read_bytes() == b"dataset.path = caf\\udce9, \\ud800\n"


def test_a_folder_that_cannot_be_written_is_named_by_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A read-only file system refuses to remove the temporary file, too, which is not there."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", ".f.1.tmp")

    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OSError, match="Read-only file system") as raised:
        write_text(tmp_path / "f", "text")
    assert raised.value.filename == str(tmp_path / "f")
