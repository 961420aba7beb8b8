"""Image files of class folders: which files of a folder they are, and how one is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from metarun.errors import UserError


def image_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files directly in a folder whose names end so (in any case) and do not begin with a dot, sorted."""
    found = (path for path in folder.glob("[!.]*") if path.suffix.lower() in suffixes)
    return sorted(path for path in found if path.is_file())


def read(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The image as ``convert`` makes it. Raises ``UserError``, naming the file, where it cannot be read."""
    try:
        with Image.open(path) as image:
            return convert(image)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise UserError(f"{path}: unreadable image ({error})") from error
