"""Small copies of mini-ImageNet in the layouts that are in circulation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from metarun.datasets.base import Split
from metarun.datasets.miniimagenet import published_split

SIZE = 16
CHOSEN = {split: names[: 3 if split is Split.train else 2] for split, names in published_split().items()}
LAYOUTS = {  # name -> where an image goes; {id}: its class
    "flat, CSVs": "images/{id}{i:08}.jpg",
    "class folders in images, CSVs": "images/{id}/{i}.jpg",
    "class folders, CSVs": "{id}/{id}_{i}.JPEG",
    "folders by split": "{split}/{id}/{id}_{i}.JPEG",
    "class folders": "{id}/{id}_{i}.JPEG",
    "class folders in images": "images/{id}/{i}.jpg",
}
Pixels = dict[Split, np.ndarray]  # uint8 [classes, images, H, W, 3]


def random_pixels(seed: int = 0, images: int = 4, size: tuple[int, int] = (SIZE, SIZE)) -> Pixels:
    generator = np.random.default_rng(seed)
    return {s: generator.integers(0, 256, (len(ids), images, *size, 3), np.uint8) for s, ids in CHOSEN.items()}


def small_copy(root: Path, layout: str, pixels: Pixels | None = None) -> Path:
    """Writes pixels into root in a layout of ``LAYOUTS``; returns root."""
    pixels = pixels or random_pixels(size=(20, 24))
    for split, ids in CHOSEN.items():
        rows = []
        for c, name in enumerate(ids):
            for i, image in enumerate(pixels[split][c]):
                path = root / LAYOUTS[layout].format(split=split.name, id=name, i=i)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, "JPEG")
                rows.append((path.name, name))
        if "CSV" in layout:
            with open(root / f"{split.name}.csv", "w", newline="") as file:
                csv.writer(file).writerows([("filename", "label"), *rows[::-1]])
    return root
