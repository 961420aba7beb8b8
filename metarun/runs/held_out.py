"""What a run's data were, and that nothing is tested on what it was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from metarun.datasets.base import Split, Tasks
from metarun.errors import UserError

Facts = dict[str, Any]  # {"classes": {"train", "val", "test": names, or None}, "pool_sha256": text or None}
DECIDE = ("split", "split_seed", "shares", "path", "layers", "min_images")  # settings of data sets: who is where


def facts(tasks: Tasks) -> Facts:
    """What the folder of a run keeps of its data."""
    return {
        "classes": {split.name: tasks.class_names(split) for split in Split},
        "pool_sha256": tasks.stamp.get("pool_sha256"),
    }


def sound(data: Any) -> bool:
    """Whether what a file holds are facts, or none."""
    if data is None:
        return True
    try:
        classes = [data["classes"][split.name] for split in Split]
        texts = [data["pool_sha256"], *(name for names in classes for name in names or ())]
    except (TypeError, KeyError, IndexError):
        return False
    lists = all(names is None or isinstance(names, list) for names in classes)
    return lists and all(text is None or isinstance(text, str) for text in texts)


def stamp(tasks: Tasks) -> dict[str, str]:
    """Of the classes of each split and their images: a sum by which results on the same data know each other."""
    data = facts(tasks)
    if not any([*data["classes"].values(), data["pool_sha256"]]):
        return {}
    return {"data_sha256": _digest(data)}


def _digest(data: Facts) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:16]


def differences(before: Facts | None, now: Facts | None) -> str:
    """What is no longer as it was, in words; empty where nothing is, or where an earlier version kept no facts."""
    if before is None or now is None or before == now:
        return ""
    said = []
    for split in Split:
        was, names = (data["classes"][split.name] for data in (before, now))
        if was == names:
            continue
        changes = [("more", _beyond(names, was)), ("fewer", _beyond(was, names))]
        counts = [f"{len(some)} {word} ({first(some)})" for word, some in changes if some] or ["another order"]
        said.append(f"{split.name} classes: {' and '.join(counts)}")
    if before["pool_sha256"] != now["pool_sha256"]:
        said.append(f"pool_sha256: {before['pool_sha256']} there, {now['pool_sha256']} here")
    return "; ".join(said)


def refuse_renamed_split(data: Facts | None, names: dict[str, str], values: dict[str, Any], place: object) -> None:
    """Raise ``UserError`` for a run of before ``dataset.split=vinyals`` was Vinyals' split."""
    if data is None and names["dataset"] == "omniglot" and values["dataset"].get("split") == "vinyals":
        raise UserError(
            f"{place}: trained when dataset.split=vinyals was a random list of characters with the sizes of Vinyals' "
            "split, which this version no longer has; train again in a new folder"
        )


def refuse_trained(
    trained: Facts | None, was: dict[str, Any], tested: Facts, asked: dict[str, Any], selected: bool, place: object
) -> None:
    """Raise ``UserError`` where test classes are among those of a run's meta-training.

    selected: its validation classes chose its parameters, so they are seen too. was, asked: the data set's settings
    of the run, and of the test.
    """
    changed = [f"dataset.{key}" for key in DECIDE if key in was and key in asked and was[key] != asked[key]]
    keys = ", ".join(changed) or "dataset"
    if trained is None:
        if changed:
            raise UserError(
                f"{place}: an earlier version made this run and kept no list of its classes, so whether it was "
                f"trained on those of this test is not known; leave {keys} as it was"
            )
        return
    names = {split: trained["classes"][split.name] for split in Split}
    test = tested["classes"]["test"]
    if test is None or names[Split.train] is None:
        if differences(trained, tested):
            raise UserError(
                f"{place}: {keys}: its splits are no different classes, so it is tested on the data of its training "
                f"alone ({differences(trained, tested)})"
            )
        return
    seen = {"meta-trained on": _common(test, names[Split.train])}
    if selected:
        seen["used to select its parameters"] = _common(test, names[Split.val] or [])
    said = [f"{len(some)} were {how} ({first(some)})" for how, some in seen.items() if some]
    if said:
        told = " and ".join(said)
        raise UserError(f"{place}: {keys}: of the {len(test)} test classes {told}; test on others")


def first(names: Collection[str], most: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more


def _common(names: list[str], others: list[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name in known]


def _beyond(names: list[str] | None, others: list[str] | None) -> list[str]:
    known = set(others or ())
    return [name for name in names or () if name not in known]
