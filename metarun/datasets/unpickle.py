"""Read pickled arrays safely, without running any other code that a pickle may contain."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from metarun.errors import UserError

# Functions that pickled arrays call. They are taken from numpy's own pickles, since the names of its modules change.
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
    """Unpickler that refuses every function not needed for arrays; a pickle is a program that calls functions."""

    def find_class(self, module: str, name: str) -> Any:
        known = module.removeprefix("numpy.core.").removeprefix("numpy._core."), name
        if known not in MAKERS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no array needs; it may be malicious")
        return MAKERS[known]


def arrays(path: Path) -> Any:
    """Read arrays, numbers, text and plain containers from a pickle, also of Python 2.

    Raises:
        pickle.UnpicklingError: it contains anything else.
        Exception: a damaged pickle can raise nearly any error.
    """
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()  # latin1: with it Python 3 can read Python 2's arrays


def images_by_class(path: Path) -> dict[str, list[np.ndarray]]:
    """Read the images of each class, uint8 [H, W, 3] each, from a pickle in one of two forms.

    It has ``image_data`` uint8 [n, H, W, 3] with ``class_dict`` (name -> indices), or ``data`` with ``labels`` [n].

    Raises:
        UserError: it cannot be read, or has another form.
    """
    try:
        content = arrays(path)
        if "class_dict" in content:
            images, members = content["image_data"], sorted(content["class_dict"].items())
        else:
            images, labels = content["data"], np.asarray(content["labels"])
            members = [(f"{path.stem} {label}", np.flatnonzero(labels == label)) for label in np.unique(labels)]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images are {images.dtype} {images.shape}")
        return {name: [images[i] for i in indices] for name, indices in members}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path}: unreadable ({type(error).__name__}: {error})") from error
