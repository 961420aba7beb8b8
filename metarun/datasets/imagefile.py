"""Image files: find them in a folder, and read them as a viewer shows them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from metarun.errors import UserError

PHOTOMETRIC, BITS = 262, 258  # TIFF tags
SCALED = ("PNG", "PPM", "JPEG2000")  # Pillow's 32-bit integers from these formats are 16-bit values; 65535 is white

# what ``shown``, and ``square_of`` with a resizing, do, in words
AS_SHOWN, SQUARE = (
    "upright by its EXIF data, transparent parts on white",
    "the square in its middle, resized to {0}x{0}",
)


class Filter(enum.Enum):
    """Filter that resizes an image to a square.

    MAML's code uses lanczos. The code published with Reptile uses Pillow's default filter, which is bicubic from Pillow
    7 on and was nearest before.
    """

    lanczos = "lanczos"
    bicubic = "bicubic"
    nearest = "nearest"

    def apply(self, image: Image.Image, size: int) -> Image.Image:
        """Resize an image to ``size`` pixels a side; one that already has the size is not changed."""
        return image if image.size == (size, size) else image.resize((size, size), Image.Resampling[self.name.upper()])


class Unreadable(UserError):
    """An image file cannot be read.

    Args:
        path: the file.
        reason: why, without the file's name.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: unreadable image ({reason})")
        self.reason = reason


def image_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """List the files directly in a folder with one of the suffixes (in any case), sorted, without hidden files."""
    found = (path for path in folder.glob("[!.]*") if path.suffix.lower() in suffixes)
    return sorted(path for path in found if path.is_file())


def read(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Open an image file and convert it.

    Args:
        path: the file.
        convert: function of the open image.

    Raises:
        Unreadable: the file cannot be read or converted; names the file.
    """
    try:
        with Image.open(path) as image:
            return convert(image)
    except UnidentifiedImageError:
        raise Unreadable(path, "no image that Pillow knows") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise Unreadable(path, " ".join(str(error).split()) or type(error).__name__) from error


def square_of(image: Image.Image) -> Image.Image:
    """Cut an image to the square in its middle."""
    side = min(image.size)
    left, top = ((whole - side) // 2 for whole in image.size)
    return image.crop((left, top, left + side, top + side))


def shown(image: Image.Image, white: float | None = None, upright: bool = True) -> Image.Image:
    """Convert an image to RGB as a viewer shows it: transparent parts on white, the first frame of an animation.

    Args:
        image: the open image.
        white: pixel value of white in images deeper than 8 bits; None: the largest number of the file's bits.
        upright: whether to rotate the image by its EXIF data.

    Raises:
        ValueError: ``white`` is None and unknown, for real numbers and 32-bit integers; or a 16-bit file uses at most
            12 bits, so that a viewer shows it as black; or pixels are negative or not finite.
    """
    kept: dict[str, Any] = {"format": image.format, "tags": dict(getattr(image, "tag_v2", {}))}
    key = _transparent(image)
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        return _eight_bits(np.asarray(image), image.mode, key, white, **kept).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        if key is not None:
            image.info["transparency"] = key
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def centre_square(image: Image.Image, size: int, white: float | None = None) -> Image.Image:
    """Convert an image as a viewer shows it, cut it to its centre square and resize it.

    Args:
        image: any image that Pillow opens.
        size: pixels a side.
        white: see ``shown``.

    Raises:
        ValueError: see ``shown``.
    """
    return square_of(shown(image, white)).resize((size, size), Image.Resampling.LANCZOS)


def _transparent(image: Image.Image) -> Any:
    """The transparent colour on the scale of Pillow's pixels; Pillow returns it on the scale of the file."""
    key = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    scale = {"L;2": 85, "L;4": 17}.get(str(tile[0][3]) if tile else "", 1)
    if isinstance(key, tuple) and any(value > 255 for value in key):
        return tuple(value >> 8 for value in key)
    return key * scale if isinstance(key, int) else key


def _eight_bits(
    pixels: np.ndarray, mode: str, transparent: Any, white: float | None, format: str | None, tags: dict[int, Any]
) -> Image.Image:
    """Convert deeper grey values to 8 bits."""
    least, most = float(pixels.min()), float(pixels.max())
    if not np.isfinite([least, most]).all():
        raise ValueError("it has pixels that are not finite")
    if least < 0:
        raise ValueError("it has negative pixels")
    if white is None:
        if mode == "F" or (mode == "I" and format not in SCALED):
            kind = "real numbers" if mode == "F" else "32-bit integers"
            raise ValueError(f"its pixels are {kind} up to {most:g}; say with dataset.white which of them is white")
        bits = tags[BITS][0] if BITS in tags else 16
        if bits == 16 and format != "PPM" and 0 < most < 2**12:
            raise ValueError(
                f"of its 16 bits at most 12 are in use (up to {most:g}): say with dataset.white which pixel is white, "
                "such as 4095, or 65535 if it is that dark"
            )
        white = 2**bits - 1
    grey = np.rint(np.clip(pixels / white, 0, 1) * 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow reverses only for 8 bits
        grey = 255 - grey
    if isinstance(transparent, int):
        grey[pixels == transparent] = 255
    return Image.fromarray(grey)
