"""A made-up CIFAR-100 with few images, in the layouts that its readers know."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metarun.datasets import cifar100
from metarun.datasets.split_file import published

IMAGES = 18  # of each class
LAYOUTS = ("npz", "pickles", "zip of CIFAR-FS", "folders by split")


def pixels(seed: int = 0) -> np.ndarray:
    """Returns uint8 [100, 18, 32, 32, 3], in no order."""
    return np.random.default_rng(seed).integers(0, 256, (100, IMAGES, 32, 32, 3), np.uint8)


def in_place_of_the_real(patch: pytest.MonkeyPatch, of: np.ndarray) -> np.ndarray:
    """Lets the readers take these pixels for the published ones; returns them sorted within each class."""
    in_order = np.stack([sorted(some, key=lambda image: image.tobytes()) for some in of])
    patch.setattr(cifar100, "IMAGES", of.shape[1])
    patch.setattr(cifar100, "SHA256", hashlib.sha256(in_order.tobytes()).hexdigest())
    return in_order


def copy(data_root: Path, layout: str, of: np.ndarray) -> None:
    """Writes pixels below ``data_root``."""
    names = cifar100.names()
    data_root.mkdir(parents=True, exist_ok=True)
    if layout == "npz":
        mosaics: dict[str, Any] = {}
        for name, some in zip(names, of, strict=True):
            mosaic = some.reshape(3, -1, 32, 32, 3).swapaxes(1, 2).reshape(3 * 32, -1, 3)
            file = io.BytesIO()
            Image.fromarray(mosaic).save(file, "WEBP", lossless=True)
            mosaics[name] = np.frombuffer(file.getvalue(), np.uint8)
        np.savez(data_root / "cifar100.npz", fine_names=np.array(names), **mosaics)
    elif layout == "pickles":
        (data_root / "cifar-100-python").mkdir()
        for part, some in (("train", of[:, :15]), ("test", of[:, 15:])):
            labels = np.random.default_rng(1).permutation(np.repeat(np.arange(100), some.shape[1]))
            place = np.argsort(labels, kind="stable")
            data = np.empty((len(labels), 32, 32, 3), np.uint8)
            data[place] = some.reshape(-1, 32, 32, 3)
            content = {"data": data.transpose(0, 3, 1, 2).reshape(len(data), -1), "fine_labels": labels.tolist()}
            (data_root / "cifar-100-python" / part).write_bytes(pickle.dumps(content, protocol=2))
    else:
        parts = {name: split.name for split, of_split in published("cifar_fs").items() for name in of_split}
        for name, some in zip(names, of, strict=True):
            folder = data_root / ("cifar100/data" if layout == "zip of CIFAR-FS" else f"CIFAR-FS/{parts[name]}") / name
            folder.mkdir(parents=True)
            for i, image in enumerate(some):
                Image.fromarray(image).save(folder / f"{name}_{i}.png", compress_level=0)
