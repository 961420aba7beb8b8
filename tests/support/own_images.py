"""A folder of images such as people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 16
COUNTS = {"ant": 4, "bee": 7, "cat": 5, "dog": 4, "eel": 6, "fox": 4, "gnu": 5, "hen": 4, "ibis": 4, "jay": 9}
MODES = ("RGB", "L", "P", "RGBA", "1", "CMYK", "I;16", "LA")
SUFFIXES = {"RGB": "jpg", "CMYK": "JPEG", "1": "bmp"}


def own_images(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    """Images of many sizes and modes, and what else lies about in folders; returns root."""
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            sides = generator.integers(SIZE // 2, 3 * SIZE, 2)
            image = Image.fromarray(generator.integers(0, 256, (*sides, 3), np.uint8))
            mode = MODES[i % len(MODES)]
            if mode == "I;16":
                image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
            else:
                image = image.convert(mode)
            image.save(root / name / f"{i}.{SUFFIXES.get(mode, 'png')}")
        (root / name / "notes.txt").write_text("no image")
        (root / name / ".DS_Store").write_bytes(b"\0")
        (root / name / "._0.png").write_bytes(b"what macOS leaves")
    (root / ".thumbnails").mkdir(exist_ok=True)
    (root / ".thumbnails" / "0.png").write_bytes(b"hidden")
    (root / "readme.md").write_text("no class")
    return root


QUICK = ["way=2", "shot=1", "query=2", "steps=2", "meta_batch=2", "eval.every=2", "eval.val_tasks=2", "eval.tasks=2"]
QUICK += ["model.filters=4", "dataset.size=16", "dataset.shares=[0.5,0.2,0.3]", "device.compile=false"]
