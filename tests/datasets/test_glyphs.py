from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metarun.datasets import glyphs
from metarun.datasets.base import Split
from metarun.datasets.glyphs import Glyphs

CPU = torch.device("cpu")


def test_pool(own_cache: Path) -> None:
    tasks = Glyphs().load(Path("unused"), CPU)
    assert tasks.input_shape == (1, 28, 28)
    tasks.check(Split.test, way=20, shot=1, query=11)  # twelve faces
    assert sum(int(n) for n in tasks.stamp["split"].removeprefix("letters ").split("/")) > 400
    assert len(tasks.stamp["pool_sha256"]) == 16


@pytest.mark.full
def test_letters_fill_the_picture_and_differ() -> None:
    letters, images = glyphs.render()
    assert images.shape == (len(letters), 12, 28, 28) and len(letters) > 1000
    assert (images.reshape(len(letters) * 12, -1).max(1) > 0).all(), "an empty picture"
    kept = glyphs.without_look_alikes(images)
    names = {chr(code) for code in letters[kept]}
    assert (
        "A" in names and "\N{CYRILLIC CAPITAL LETTER A}" not in names and "\N{GREEK CAPITAL LETTER ALPHA}" not in names
    )
    assert {"B", "g", "\N{GREEK SMALL LETTER ZETA}"} <= names


def test_second_load_reads_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Glyphs().load(Path("unused"), CPU)
    monkeypatch.setattr(glyphs, "render", lambda: pytest.fail("rendered again"))
    again = Glyphs().load(Path("unused"), CPU)
    assert first.stamp == again.stamp


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "letters": np.arange(65, 91),
        "images": np.random.default_rng(0).integers(0, 256, (26, 12, 28, 28), np.uint8),
    }
    monkeypatch.setattr(glyphs, "_distinct_letters", lambda: small)  # rendering takes seconds
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    stamp = Glyphs().load(Path("unused"), CPU).stamp
    (cache,) = tmp_path.glob("glyphs-*.npz")
    cache.write_bytes(cache.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="damaged"):
        assert Glyphs().load(Path("unused"), CPU).stamp == stamp
    with np.load(cache) as whole:
        assert len(whole["letters"]) == len(whole["images"])
