"""Small made-up copies of data sets whose splits are lists of class names."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from metarun.datasets import emnist
from metarun.datasets.base import Split
from metarun.datasets.split_file import Listed, published

FEW = {Split.train: 3, Split.val: 2, Split.test: 2}


def photograph(seed: int, size: tuple[int, int] = (20, 24), channels: int = 3) -> np.ndarray:
    """Returns uint8 [*size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)


def first_classes(name: str) -> Listed:
    """The first classes of each split of a published list."""
    return {split: names[: FEW[split]] for split, names in published(name).items()}


def write_list(path: Path, listed: Listed) -> None:
    """Writes a split file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({split.name: names for split, names in listed.items()}))


def write_folders(root: Path, listed: Listed, images: int = 4, by_split: bool = False) -> None:
    """Writes a folder of PNG images for each class; image i of class c has the seed 100 c + i."""
    c = 0
    for split, names in listed.items():
        for name in names:
            folder = root / (split.name if by_split else ".") / name
            folder.mkdir(parents=True)
            for i in range(images):
                Image.fromarray(photograph(100 * c + i)).save(folder / f"{i}.png")
            c += 1


def write_pickles(root: Path, listed: Listed, images: int = 4, words: bool = False) -> None:
    """Writes the two pickles of each split that tiered-ImageNet is passed on in, images of a class far apart.

    With ``words`` the classes have other names than in the list.
    """
    root.mkdir(parents=True, exist_ok=True)
    c = 0
    for split, names in listed.items():
        encoded, labels = [], []
        for i in range(images):
            for k in range(len(names)):
                file = io.BytesIO()
                Image.fromarray(photograph(100 * (c + k) + i, (84, 84))).save(file, "PNG")
                encoded.append(np.frombuffer(file.getvalue(), np.uint8)[:, None])
                labels.append(k)
        c += len(names)
        called = [f"{name} in words" for name in names] if words else names
        content = {"label_specific": np.array(labels), "label_specific_str": called}
        (root / f"{split.name}_images_png.pkl").write_bytes(pickle.dumps(encoded))
        (root / f"{split.name}_labels.pkl").write_bytes(pickle.dumps(content, protocol=2))


def write_emnist(data_root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Writes torchvision's four files with 3 to 5 images a class; returns the images, upright, and labels."""
    counts = [3 + c % 3 for c in range(62)]
    labels = np.random.default_rng(2).permutation(np.repeat(np.arange(62, dtype=np.uint8), counts))
    images = photograph(1, (len(labels), 28), 28)
    folder = data_root / emnist.RAW
    folder.mkdir(parents=True)
    for part, rows in (("train", slice(200)), ("test", slice(200, None))):
        pages = images[rows].transpose(0, 2, 1)  # rows and columns exchanged, as in the real files
        (folder / f"emnist-byclass-{part}-images-idx3-ubyte").write_bytes(bytes(16) + pages.tobytes())
        (folder / f"emnist-byclass-{part}-labels-idx1-ubyte").write_bytes(bytes(8) + labels[rows].tobytes())
    return images, labels
