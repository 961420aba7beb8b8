from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metarun.datasets.base import Split
from metarun.datasets.split_file import in_words, listed_in, published
from metarun.errors import UserError

SIZES = {
    "cifar_fs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "tieredimagenet": (351, 97, 160),
    "cub": (100, 50, 50),
    "emnist": (0, 31, 31),
    "miniimagenet": (64, 16, 20),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_splits_share_no_class(name: str) -> None:
    listed = published(name)
    assert tuple(len(listed[split]) for split in Split) == SIZES[name]
    everything = [word for split in Split for word in listed[split]]
    assert len(set(everything)) == len(everything)


def test_the_lists_are_the_known_ones() -> None:
    cifar_fs, fc100 = ({word for of in published(name).values() for word in of} for name in ("cifar_fs", "fc100"))
    assert cifar_fs == fc100 and len(cifar_fs) == 100 and {"apple", "worm", "lawn_mower"} < cifar_fs
    tiered = published("tieredimagenet")
    assert all(re.fullmatch(r"n\d{8}", word) for of in tiered.values() for word in of)
    cub = published("cub")
    every = sorted(word for of in cub.values() for word in of)
    assert [int(word[:3]) for word in every] == list(range(1, 201))
    rule = [Split.train, Split.val, Split.train, Split.test]  # i even: base; i % 4 == 1: val; i % 4 == 3: novel
    assert all(word in cub[rule[i % 4]] for i, word in enumerate(every))
    emnist = published("emnist")
    assert emnist[Split.val][:6] == ["0", "2", "4", "6", "8", "A"] and emnist[Split.test][-1] == "z"


def test_they_equal_the_lists_of_others(data_root: Path) -> None:
    lists = json.loads((data_root / "splits" / "cifar_splits.json").read_text())
    others = {"cifar_fs": lists["cifar_fs"], "fc100": lists["fc100"]}
    for name in ("cub", "tieredimagenet"):
        others[name] = json.loads((data_root / "splits" / f"{name}_split.json").read_text())
    for name, other in others.items():
        assert published(name) == {split: other[split.name] for split in Split}
    for split, names in published("fc100").items():
        wholes = {lists["coarse_of"][word] for word in names}
        assert wholes == set(lists["fc100_superclasses"][split.name])


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"train": ["a", "b"], "val": [], "test": ["c"]}))
    listed, own = listed_in("mine.json", tmp_path)
    assert listed == {Split.train: ["a", "b"], Split.val: [], Split.test: ["c"]} and own
    assert in_words("lists/mine.json", listed) == "own 2/0/1, mine.json"
    assert in_words("cub", published("cub")) == "cub 100/50/50"
    refused = {
        "": "is not JSON",
        "[]": "is not JSON with the lists",
        '{"train": [], "val": []}': "is not JSON with the lists",
        '{"train": "abc", "val": [], "test": []}': "must be lists of class names",
        '{"train": [1], "val": [], "test": []}': "must be lists of class names",
        '{"train": ["a"], "val": [], "test": ["a"]}': "class a is listed 2 times",
        '{"train": [], "val": [], "test": []}': "lists no class",
    }
    for text, why in refused.items():
        path.write_text(text)
        with pytest.raises(UserError, match=rf"dataset.split=.*mine.json: .*{why}") as caught:
            listed_in("mine.json", tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"other.json: is not there; it is JSON"):
        listed_in("other.json", tmp_path)
    with pytest.raises(UserError, match=r"dataset.split=nothing: must be one of cifar_fs, .*, or the path of a file"):
        listed_in("nothing", tmp_path)
