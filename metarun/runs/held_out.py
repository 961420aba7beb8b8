"""A description of a run's data, and checks that no test class was used in training."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from metarun.datasets.base import Split, Tasks
from metarun.errors import UserError

# {"classes": {"train", "val", "test": names, or None}, "pool_sha256": text or None}; for data that name their tasks the
# names are theirs, and "apart" says "tasks"; "learned" is what the data had to learn, if anything
Facts = dict[str, Any]
DECIDE = (  # settings that assign classes or tasks to splits
    *("split", "split_seed", "shares", "path", "layers", "min_images"),
    *("task", "target", "y", "min_rows"),
)
IMAGENET, OF_IMAGENET = "imagenet", re.compile(r"n\d{8}")  # in ``Trained.kind``; names of its classes


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What parameters were trained on, as stored in the ``config.json`` of a run that starts from them.

    Attributes:
        what: the training, in words.
        kind: module of its data set, or ``imagenet``; None: not known.
        settings: settings of its data set.
        data: facts of its data; None: not known.
        selected: whether validation selected the parameters.
    """

    what: str
    kind: str | None
    settings: dict[str, Any]
    data: Facts | None
    selected: bool


def facts(tasks: Tasks) -> Facts:
    """Describe the data, as stored in a run's ``config.json``: class names of each split, checksum of the images."""
    return {
        "classes": {split.name: tasks.class_names(split) for split in Split},
        "pool_sha256": tasks.stamp.get("pool_sha256"),
        **({"apart": tasks.apart} if tasks.apart != "classes" else {}),
        **({"learned": dict(tasks.learned)} if tasks.learned else {}),
    }


def sound(data: Any) -> bool:
    """Whether data from a file have the types of ``Facts``, or are None."""
    if data is None:
        return True
    try:
        classes = [data["classes"][split.name] for split in Split]
        texts = [data["pool_sha256"], data.get("apart"), *(name for names in classes for name in names or ())]
    except (TypeError, KeyError, IndexError):
        return False
    lists = all(names is None or isinstance(names, list) for names in classes)
    lists = lists and isinstance(data.get("learned", {}), dict)
    return lists and all(text is None or isinstance(text, str) for text in texts)


def stamp(tasks: Tasks) -> dict[str, str]:
    """Return {"data_sha256": checksum of classes and images}; empty where the data have neither."""
    data = facts(tasks)
    if not any([*data["classes"].values(), data["pool_sha256"]]):
        return {}
    return {"data_sha256": _digest({key: value for key, value in data.items() if key != "learned"})}


def _digest(data: Facts) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:16]


def differences(before: Facts | None, now: Facts | None) -> str:
    """Describe how the data changed; empty where they did not, or where an older version stored no facts."""
    if before is None or now is None or before == now:
        return ""
    said = []
    for split in Split:
        was, names = (data["classes"][split.name] for data in (before, now))
        if was == names:
            continue
        changes = [("more", _beyond(names, was)), ("fewer", _beyond(was, names))]
        counts = [f"{len(some)} {word} ({first(some)})" for word, some in changes if some] or ["another order"]
        said.append(f"{split.name} {_noun(now)}: {' and '.join(counts)}")
    if before["pool_sha256"] != now["pool_sha256"]:
        said.append(f"pool_sha256: {before['pool_sha256']} there, {now['pool_sha256']} here")
    return "; ".join(said)


def refuse_renamed_split(data: Facts | None, names: dict[str, str], values: dict[str, Any], place: object) -> None:
    """Raise ``UserError`` for a run from before ``dataset.split=vinyals`` was the split of Vinyals et al."""
    if data is None and names["dataset"] == "omniglot" and values["dataset"].get("split") == "vinyals":
        raise UserError(
            f"{place}: trained when dataset.split=vinyals was a random list of characters with the sizes of Vinyals' "
            "split, which this version no longer has; train again in a new folder"
        )


def refuse_trained(
    trained: Facts | None, was: dict[str, Any], tested: Facts, asked: dict[str, Any], selected: bool, place: object
) -> None:
    """Refuse a test on classes that the run used in meta-training or to select its parameters.

    Args:
        trained: facts of the run's data; None for a run of an older version.
        was: settings of the run's data set.
        tested: facts of the test's data.
        asked: settings of the test's data set.
        selected: whether validation selected the run's parameters. Then validation classes are refused too.
        place: start of the message.

    Raises:
        UserError: there are such classes; or it is not known whether there are; or the splits do not differ by classes,
            and the data are not those of the run.
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
                f"{place}: {keys}: its splits do not differ by classes, so it can be tested only on the data of its "
                f"training ({differences(trained, tested)})"
            )
        return
    seen = {"meta-trained on": _common(test, names[Split.train])}
    if selected:
        seen["used to select its parameters"] = _common(test, names[Split.val] or [])
    said = [f"{len(some)} were {how} ({first(some)})" for how, some in seen.items() if some]
    if said:
        told = " and ".join(said)
        raise UserError(f"{place}: {keys}: of the {len(test)} test {_noun(tested)} {told}; test on others")


def _noun(data: Facts) -> str:
    return data.get("apart") or "classes"


def refuse_seen(trained: Trained, tested: Facts, kind: str, asked: dict[str, Any], place: object) -> None:
    """Do what ``refuse_trained`` does for any training, also on another data set.

    Classes of two data sets are the same where they have the same name, unless one data set only numbers its classes.

    Args:
        trained: the training.
        tested: facts of the test's data.
        kind: module of the test's data set.
        asked: settings of the test's data set.
        place: start of the message.

    Raises:
        UserError: there are such classes, or within one data set it is not known whether there are.
    """
    if trained.kind == kind:
        refuse_trained(trained.data, trained.settings, tested, asked, trained.selected, place)
        return
    if compared(trained, tested):
        refuse_trained(trained.data, trained.settings, tested, asked, trained.selected, place)
    test = tested["classes"]["test"] or []
    if trained.kind == IMAGENET and (known := [name for name in test if OF_IMAGENET.fullmatch(name)]):
        raise UserError(
            f"{place}: {trained.what}: {len(known)} of the {len(test)} test classes are called as classes of ImageNet "
            f"({first(known)}), on which these parameters were trained; test on others"
        )


def compared(trained: Trained, tested: Facts) -> bool:
    """Whether the classes of two data sets can be compared by name; not where one of them only numbers its classes."""
    test = tested["classes"]["test"]
    lists = [trained.data["classes"][split.name] for split in Split] if trained.data else []
    numbered = any(all(name.isdigit() for name in names) for names in (*lists, test) if names)
    return bool(lists and lists[0] and test) and not numbered


def first(names: Collection[str], most: int = 3) -> str:
    """Return the first few names, and how many more there are, as text."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more


def _common(names: list[str], others: list[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name in known]


def _beyond(names: list[str] | None, others: list[str] | None) -> list[str]:
    known = set(others or ())
    return [name for name in names or () if name not in known]
