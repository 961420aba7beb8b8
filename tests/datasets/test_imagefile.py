"""Image files of every kind: what a viewer shows, or a reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from metarun.datasets.imagefile import Unreadable, read, shown

WHITE, BLACK = [255] * 3, [0] * 3


def png(bits: int, colour: int, row: bytes, width: int, extra: bytes = b"") -> bytes:
    """A PNG of one row, which Pillow writes in few depths."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def row(content: bytes, white: float | None = None) -> list[list[int]]:
    """The first row of a file, as shown."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(shown(image, white))[0].tolist()


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_grey_png_of_every_depth() -> None:
    assert row(png(1, 0, bytes([0b01000000]), 2)) == [BLACK, WHITE]
    assert row(png(2, 0, bytes([0b00011011]), 4)) == [BLACK, [85] * 3, [170] * 3, WHITE]
    assert row(png(4, 0, bytes([0x0F]), 2)) == [BLACK, WHITE]
    assert row(png(8, 0, bytes([0, 7, 255]), 3)) == [BLACK, [7] * 3, WHITE]
    assert row(png(16, 0, struct.pack(">HHHH", 0, 257 * 7, 257 * 8 - 1, 65535), 4)) == [BLACK, [7] * 3, [8] * 3, WHITE]
    assert row(png(16, 2, struct.pack(">6H", 65535, 0, 257, 0, 0, 0), 2)) == [[255, 0, 1], BLACK]
    for bits, key in ((2, 1), (4, 5), (16, 65535)):  # one grey level is transparent, so white
        data = {2: bytes([0b01000000]), 4: bytes([0x50]), 16: struct.pack(">HH", 65535, 0)}[bits]
        assert row(png(bits, 0, data, 2, chunk(b"tRNS", struct.pack(">H", key)))) == [WHITE, BLACK]
    content = png(16, 2, struct.pack(">6H", 5000, 0, 0, 0, 0, 0), 2, chunk(b"tRNS", struct.pack(">3H", 5000, 0, 0)))
    assert row(content) == [WHITE, BLACK]


def test_twelve_bits_in_sixteen_need_to_be_told() -> None:
    for content in (saved(np.array([[0, 4095]], np.uint16), kind) for kind in ("PNG", "TIFF")):
        with pytest.raises(ValueError, match=r"at most 12 are in use \(up to 4095\).*dataset.white"):
            row(content)
        assert row(content, 4095) == [BLACK, WHITE]
        assert row(content, 65535) == [BLACK, [16] * 3]
    assert row(saved(np.zeros((1, 2), np.uint16), "PNG")) == [BLACK, BLACK]


@pytest.mark.parametrize("most", [1, 15, 254, 255, 1023, 4095, 65535])
def test_portable_maps_say_their_white(most: int) -> None:
    values = [0, most]
    size = 2 if most > 255 else 1
    data = b"".join(value.to_bytes(size, "big") for value in values)
    assert row(b"P5 2 1 %d\n" % most + data) == [BLACK, WHITE]
    assert row(b"P2 2 1 %d\n0 %d\n" % (most, most)) == [BLACK, WHITE]
    colour = b"".join(value.to_bytes(size, "big") * 3 for value in values)
    assert row(b"P6 2 1 %d\n" % most + colour) == [BLACK, WHITE]


def test_depths_of_which_nothing_says_what_is_white() -> None:
    for pixels, kind in (([[0, 70000]], np.int32), ([[0, 0.5]], np.float32), ([[0, 60000]], np.int32)):
        content = saved(np.array(pixels, kind), "TIFF")
        with pytest.raises(ValueError, match=r"say with dataset.white which of them is white"):
            row(content)
        assert row(content, pixels[0][1]) == [BLACK, WHITE]
        assert row(content, 2 * pixels[0][1])[1] in ([127] * 3, [128] * 3)
    for wrong, said in ((-1.0, "negative"), (float("nan"), "not finite"), (float("inf"), "not finite")):
        with pytest.raises(ValueError, match=said):
            row(saved(np.array([[0, wrong]], np.float32), "TIFF"), 1)


def test_tiff_says_its_bits_and_whether_white_is_zero() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    assert row(saved(np.array([[0, 65535]], np.uint16), "TIFF", tiffinfo=tags)) == [WHITE, BLACK]
    assert row(saved(np.array([[0, 255]], np.uint8), "TIFF", tiffinfo=tags)) == [BLACK, WHITE]  # Pillow writes them so


def test_colour_of_every_kind() -> None:
    red = Image.new("RGB", (2, 1), (255, 0, 0))
    for kind, mode in (("TIFF", "CMYK"), ("JPEG", "CMYK"), ("JPEG", "YCbCr"), ("TIFF", "YCbCr"), ("WEBP", "RGBA")):
        assert np.abs(np.array(row(saved(red.convert(mode), kind))) - [255, 0, 0]).max() < 8, (kind, mode)
    lab = Image.merge("LAB", [Image.new("L", (2, 1), level) for level in (255, 128, 128)])
    assert np.abs(np.array(row(saved(lab, "TIFF"))) - 255).max() <= 3
    half = Image.new("LA", (1, 1), (0, 127))
    assert row(saved(half, "PNG")) == [[128] * 3]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert row(saved(palette, "PNG", transparency=1)) == [[10, 20, 30], WHITE]
    assert row(saved(palette, "GIF", transparency=1)) == [[10, 20, 30], WHITE]
    frames = [Image.new("RGB", (1, 1), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        (first,) = row(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert first[0] > 240 and first[2] < 15


def test_turned_by_exif_data() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 3  # by half
    assert row(saved(image, "PNG", exif=exif)) == [BLACK, [255, 0, 0]]
    with Image.open(io.BytesIO(saved(image, "PNG", exif=exif))) as again:
        assert np.asarray(shown(again, upright=False))[0].tolist() == [[255, 0, 0], BLACK]
    deep = saved(np.array([[0, 65535]], np.uint16), "PNG", exif=exif)
    assert row(deep) == [WHITE, BLACK]


def test_a_reason_comes_with_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(Unreadable, match=r"a\.png: unreadable image") as caught:
        read(tmp_path / "a.png", shown)
    assert caught.value.reason == "no image that Pillow knows"
    (tmp_path / "b.tif").write_bytes(saved(np.zeros((2, 2), np.float32), "TIFF"))
    with pytest.raises(Unreadable) as caught:
        read(tmp_path / "b.tif", shown)
    assert caught.value.reason.startswith("its pixels are real numbers")
