"""Glyphs: few-shot letters rendered from the twelve DejaVu faces that matplotlib ships; nothing to download."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features

from metarun.datasets.base import Dataset, Split, Tasks, cut
from metarun.datasets.imagefile import AS_SHOWN, SQUARE, read, shown, square_of
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.files import cached_arrays

SIDE = 28
MARGIN = 1
POINT_SIZE = 24
LOOK_ALIKE = 0.2  # letters whose twelve images are closer than this cosine distance count as one
SHARES = {Split.train: 0.60, Split.val: 0.15, Split.test: 0.25}


@dataclass(kw_only=True, slots=True)
class Glyphs(Dataset):
    """A class is a letter (Latin, Greek, Cyrillic, Armenian, Georgian); its images are the letter in twelve faces.

    Use it to see in minutes, on any machine, that a method learns to learn, that an installation works, and how
    settings compare. Everybody with the same FreeType gets the same pixels (compare the checksum in the protocol).
    Do not use it to predict accuracies on Omniglot: twelve faces of one design family are far more alike than the
    handwriting of twenty people, accented letters share their base letter, and one shot leaves only 11 queries per
    class. Accuracies are high, and no paper reports them.

    Of letters that look alike (A in Latin, Greek and Cyrillic) the one with the lowest code point is kept.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        return 1, SIDE, SIDE

    @property
    def ink(self) -> bool:
        return True

    def picture(self, path: Path) -> np.ndarray:
        """Read an image file of a dark letter on white."""
        square = square_of(read(path, shown).convert("L"))
        return 255 - np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))[None]

    @property
    def reading(self) -> str:
        return f"{AS_SHOWN}; grey; {SQUARE.format(SIDE)} (Lanczos); inverted: ink is 1"

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        drawn_by = metadata.version("matplotlib"), features.version("freetype2")
        made_with = "-".join(map(str, (*drawn_by, LOOK_ALIKE, POINT_SIZE)))
        cached = cached_arrays(
            f"glyphs-{SIDE}-{hashlib.sha256(made_with.encode()).hexdigest()[:12]}", _distinct_letters
        )
        letters, images = cached["letters"], cached["images"]
        # a letter's split depends on the letter alone, so that another FreeType changes as few splits as possible
        order = sorted(range(len(letters)), key=lambda i: hashlib.sha256(chr(letters[i]).encode()).digest())
        splits = cut(order, SHARES)
        stamp = {
            "split": "letters " + "/".join(str(len(chosen)) for chosen in splits.values()),
            "resize": f"rendered at {SIDE}x{SIDE}",
            "rotations": Rotations.none.name,
            "pool_sha256": hashlib.sha256(letters.tobytes() + images.tobytes()).hexdigest()[:16],
        }
        counts = [images.shape[1]] * len(letters)
        flat, names = images.reshape(-1, 1, SIDE, SIDE), [chr(code) for code in letters]
        return ClassPool(flat, counts, splits, Rotations.none, device, stamp, names=names)


def _distinct_letters() -> dict[str, np.ndarray]:
    """Code points and images of the letters to keep."""
    letters, images = render()
    kept = without_look_alikes(images)
    return {"letters": letters[kept], "images": images[kept]}


def render() -> tuple[np.ndarray, np.ndarray]:
    """Render all letters that the twelve faces share.

    Returns:
        (code points [letters] int64, images [letters, 12, 28, 28] uint8 with ink 255).
    """
    import matplotlib  # needed by this function alone, whose images are cached
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = sorted(path for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)
    shared = set.intersection(*(set(FT2Font(str(face)).get_charmap()) for face in faces))
    letters = sorted(code for code in shared if unicodedata.category(chr(code)).startswith("L"))
    images = np.zeros((len(letters), len(faces), SIDE, SIDE), np.uint8)
    for j, face in enumerate(faces):
        font = ImageFont.truetype(str(face), POINT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        for i, code in enumerate(letters):
            images[i, j] = _centred(font, chr(code))
    return np.array(letters, np.int64), images


def _centred(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray:
    """Draw one letter with its ink in the middle of the image, shrunk if it is too large."""
    sheet = Image.new("L", (4 * SIDE, 4 * SIDE))
    ImageDraw.Draw(sheet).text((SIDE, SIDE), letter, fill=255, font=font)
    ink = sheet.crop(sheet.getbbox())
    largest = SIDE - 2 * MARGIN
    if max(ink.size) > largest:
        factor = largest / max(ink.size)
        width, height = (max(1, round(side * factor)) for side in ink.size)
        ink = ink.resize((width, height), Image.Resampling.BOX)
    picture = Image.new("L", (SIDE, SIDE))
    picture.paste(ink, ((SIDE - ink.width) // 2, (SIDE - ink.height) // 2))
    return np.asarray(picture)


def without_look_alikes(images: np.ndarray) -> np.ndarray:
    """Choose, in order, each letter that does not look like one kept before.

    Args:
        images: [letters, 12, H, W].

    Returns:
        Positions of the letters to keep, [kept].
    """
    flat = images.reshape(len(images), -1).astype(np.float64)  # sums of products of bytes: exact in any order
    products = flat @ flat.T
    lengths = np.sqrt(products.diagonal())
    distance = 1 - products / (lengths[:, None] * lengths)
    kept: list[int] = []
    for i in range(len(images)):
        if not kept or distance[i, kept].min() >= LOOK_ALIKE:
            kept.append(i)
    return np.array(kept)
