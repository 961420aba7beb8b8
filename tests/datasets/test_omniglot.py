from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.datasets import omniglot
from metarun.datasets.base import Split
from metarun.datasets.omniglot import NamedSplit, Omniglot, Resize
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import UserError

CPU = torch.device("cpu")
SIZES = {"maml": (1100, 100, 423), "reptile": (1200, 0, 423), "vinyals": (1028, 172, 423), "lake": (964, 0, 659)}


def recipe(**fields) -> Omniglot:
    plain = {
        "split": NamedSplit.maml,
        "size": 28,
        "resize": Resize.nearest,
        "invert": True,
        "rotations": Rotations.none,
    }
    return Omniglot(**{**plain, **fields})


@pytest.mark.parametrize("split", NamedSplit)
def test_splits_are_disjoint_lists_of_the_stated_sizes(split: NamedSplit) -> None:
    characters = split.characters()
    assert tuple(len(characters[part]) for part in Split) == SIZES[split.name]
    everything = [c for part in Split for c in characters[part]]
    assert sorted(everything) == list(range(1623))


def test_splits_are_what_their_origin_says() -> None:
    order = np.random.default_rng(20261121).permutation(1623)
    for split in (NamedSplit.maml, NamedSplit.reptile):
        train, val, _ = SIZES[split.name]
        characters = split.characters()
        assert characters[Split.train] == sorted(order[:train].tolist())
        assert characters[Split.val] == sorted(order[train : train + val].tolist())
        assert characters[Split.test] == sorted(order[1200:].tolist())
    assert NamedSplit.lake.characters()[Split.train] == list(range(964))
    vinyals = {part: set(characters) for part, characters in NamedSplit.vinyals.characters().items()}
    validation = (range(26, 67), range(131, 177), range(250, 272), range(465, 487), range(728, 769))
    assert vinyals[Split.test] == set(range(1200, 1623))
    assert vinyals[Split.val] == {c for alphabet in validation for c in alphabet}
    lake, maml = (split.characters() for split in (NamedSplit.lake, NamedSplit.maml))
    assert vinyals[Split.test] < set(lake[Split.test])
    assert len(vinyals[Split.test] & set(maml[Split.test])) == 108


def test_vinyals_holds_out_alphabets(data_root: Path) -> None:
    names = json.loads((data_root / "splits" / "omniglot_names.json").read_text())
    alphabets = {
        part: {names[str(c)].split("/")[1] for c in characters}
        for part, characters in NamedSplit.vinyals.characters().items()
    }
    five = {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
    assert alphabets[Split.val] == five and not five & (alphabets[Split.train] | alphabets[Split.test])
    assert alphabets[Split.train] & alphabets[Split.test] == {"Gurmukhi"}
    assert [len(alphabets[part]) for part in Split] == [33, 5, 13]


def small_omniglot(root: Path) -> np.ndarray:
    """A generated copy in the original folder layout; returns ink [6, 2, 105, 105]."""
    ink = np.random.default_rng(0).random((6, 2, 105, 105)) < 0.1
    for c in range(6):
        part = "images_background" if c < 4 else "images_evaluation"
        folder = root / "omniglot-py" / part / f"Alphabet_{c % 2}" / f"character{c:02d}"
        folder.mkdir(parents=True)
        for d in range(2):
            Image.fromarray(~ink[c, d]).save(folder / f"{c + 1:04d}_{d + 1:02d}.png")  # 1-bit, as the originals
    return ink


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and an Omniglot of 6 characters by 2 people."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(omniglot, "CHARACTERS", 6)
    monkeypatch.setattr(omniglot, "DRAWINGS", 2)
    return tmp_path


def test_npz_and_folders_hold_the_same_pictures(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ink = small_omniglot(tiny / "folders")
    (tiny / "packed").mkdir()
    np.savez(tiny / "packed" / "omniglot.npz", ink=ink)
    images = []
    for source in ("folders", "packed"):
        monkeypatch.setenv("METARUN_CACHE", str(tiny / f"cache-{source}"))
        images.append(omniglot.prepared(tiny / source, 28, Resize.nearest))
    assert np.array_equal(images[0], images[1])
    assert images[0].shape == (6, 2, 28, 28) and set(np.unique(images[0])) == {0, 255}


def test_resize_filters(tiny: Path) -> None:
    ink = small_omniglot(tiny)
    nearest, grey = (omniglot.prepared(tiny, 28, resize) for resize in Resize)
    one_bit = Image.fromarray(~ink[3, 1]).resize((28, 28), Image.Resampling.LANCZOS)  # what the published code calls
    assert np.array_equal(nearest[3, 1], np.asarray(one_bit.convert("L")))
    assert len(np.unique(grey)) > 20
    assert np.array_equal(omniglot.prepared(tiny, 105, Resize.nearest), np.where(ink, 0, 255))


def test_the_prepared_cache_comes_first(tiny: Path) -> None:
    small_omniglot(tiny)
    first = omniglot.prepared(tiny, 28, Resize.nearest)
    assert np.array_equal(omniglot.prepared(tiny / "nowhere", 28, Resize.nearest), first)
    (cache,) = (tiny / "cache").iterdir()
    cache.write_bytes(b"not a cache")
    with pytest.warns(UserWarning, match="damaged"):
        assert np.array_equal(omniglot.prepared(tiny, 28, Resize.nearest), first)


def test_what_cannot_be_found_says_what_was_tried(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(root: Path) -> np.ndarray:
        raise OSError("no network")

    monkeypatch.setattr(omniglot, "_from_download", offline)
    with pytest.raises(UserError) as caught:
        omniglot.prepared(tiny / "nowhere", 28, Resize.nearest)
    for word in ("cache", "omniglot.npz", "omniglot-py", "no network", "images_background.zip", "dataset=glyphs"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    (tiny / "half" / "omniglot-py" / "images_background" / "A" / "c").mkdir(parents=True)
    Image.new("1", (105, 105)).save(tiny / "half" / "omniglot-py" / "images_background" / "A" / "c" / "0001_01.png")
    with pytest.raises(UserError, match="holds 1 drawings instead of 12"):
        omniglot.prepared(tiny / "half", 28, Resize.nearest)


@pytest.mark.full
def test_real_omniglot(data_root: Path) -> None:
    tasks = recipe(rotations=Rotations.per_task).load(data_root, CPU)
    assert tasks.input_shape == (1, 28, 28)
    assert tasks.stamp == {
        "split": "maml 1100/100/423",
        "resize": "nearest 28x28, inverted",
        "rotations": "per_task",
    }
    episode = tasks.sample(Split.test, 0, range(32), 20, 5, 5)
    assert set(episode.query_x.unique().tolist()) == {0.0, 1.0}
    assert 0.03 < episode.query_x.mean().item() < 0.15  # ink is 1, and there is little of it
    published = recipe(split=NamedSplit.vinyals, rotations=Rotations.as_classes_everywhere).load(data_root, CPU)
    assert isinstance(published, ClassPool)
    assert [published.classes(split) for split in Split] == [4112, 688, 1692]  # as Snell et al. count them
    assert published.stamp["split"] == "vinyals 1028/172/423, the published list"
    plain = recipe(invert=False).load(data_root, CPU).sample(Split.test, 0, range(32), 20, 5, 5)
    assert plain.query_x.mean().item() > 0.85
    with pytest.raises(UserError, match="only 20"):
        tasks.check(Split.train, 5, 10, 11)
