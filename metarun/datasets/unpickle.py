"""Pickled arrays, read without running what else a pickle may hold."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

# What pickled arrays call. numpy itself is asked for its functions, since the modules they are in change names.
MAKERS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("multiarray", "_reconstruct"): np.empty(1).__reduce__()[0],
    ("multiarray", "scalar"): np.uint8(1).__reduce__()[0],
    ("numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0],
    ("_codecs", "encode"): str.encode,
    ("collections", "OrderedDict"): OrderedDict,
}


class _ArraysOnly(pickle.Unpickler):
    """A pickle is a program that calls functions by name; any that no array needs is refused."""

    def find_class(self, module: str, name: str) -> Any:
        known = module.removeprefix("numpy.core.").removeprefix("numpy._core."), name
        if known not in MAKERS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no array needs; it may be malicious")
        return MAKERS[known]


def arrays(path: Path) -> Any:
    """The arrays, numbers, text and plain containers in a pickle, Python 2's too.

    Raises ``pickle.UnpicklingError`` where it asks for anything else, and nearly anything where it is damaged.
    """
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()  # latin1: how Python 3 reads Python 2's arrays
