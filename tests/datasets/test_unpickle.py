"""Pickled arrays come back whole; pickles that call anything do not."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarun.datasets.unpickle import arrays

# {"data": array([1, 200, 255], uint8)} by Python 2, whose byte strings carry no encoding
PYTHON_2 = (
    b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x03\x01\xc8\xfftbs."
)


def written(path: Path, content: Any, protocol: int | None = None) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back(protocol: int, tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) * 10
    content = {"image_data": pixels, "class_dict": OrderedDict(a=[0, 1]), "label": np.int64(3), "name": b"\xff"}
    back = arrays(written(tmp_path / "a.pkl", content, protocol))
    assert back["image_data"].dtype == np.uint8 and np.array_equal(back["image_data"], pixels)
    assert {**back, "image_data": 0} == {**content, "image_data": 0}


def test_python_2_arrays_come_back(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(PYTHON_2)
    assert arrays(tmp_path / "a.pkl")["data"].tolist() == [1, 200, 255]


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any):
        self.reduced = function, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.mark.parametrize(
    ("call", "refused"),
    [
        (Call(os.mkdir, "ran"), "mkdir"),
        (Call(eval, "__import__('os').mkdir('ran')"), "eval"),
        (Call(getattr, np.ndarray, "tofile"), "getattr"),
        (Call(np.load, "ran"), "load"),
        (np.array([Call(os.mkdir, "ran")], object), "mkdir"),
        (defaultdict(list), "defaultdict"),
    ],
)
def test_anything_else_is_refused_and_does_not_run(
    call: Any, refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(pickle.UnpicklingError, match=rf"it calls [\w.]+\.{refused}, which no array needs"):
            arrays(written(tmp_path / "a.pkl", {"image_data": call}, protocol))
    assert not Path("ran").exists()
