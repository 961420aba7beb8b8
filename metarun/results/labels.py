"""Which settings tell the rows of a table, or the lines of a plot, from each other."""

from __future__ import annotations

import json
from typing import Any

OPTION = " (option)"  # behind a group's name: the key that holds which of its choices was taken
# what a column of the table says of a setting, where the one follows from the other in every row
SAID_BY = {
    "algo (option)": "algo",
    "dataset (option)": "dataset",
    "dataset.split": "split",
    "way": "task",
    "eval.shot": "task",
    "dataset.horizon": "task",
    "eval.tasks": "tasks",
    "eval.norm": "norm",
    "algo.eval_inner_steps": "steps",
}
FOLLOWS = {"eval.shot": "shot", "eval.query": "query"}  # unless they are set
Config = dict[str, Any]  # dotted key -> value
LONG = 24  # characters of a value in a plot


def telling(configs: list[Config], columns: list[dict[str, Any]] | None = None) -> list[str]:
    """The keys whose values differ, less those that ``columns`` (a dict for each configuration) show already.

    A key that only some choices of a group have tells nothing more than the choice does.
    """
    found = []
    for key in dict.fromkeys(key for config in configs for key in config):
        inside = any(other.startswith(f"{key}.") for config in configs for other in config)  # null there, a group here
        if inside or not _differs(configs, key):
            continue
        leader = FOLLOWS.get(key)
        if leader and all(config.get(key) == config.get(leader) for config in configs):
            continue
        column = SAID_BY.get(key)
        if columns and column:
            pairs = {(written(row[column]), written(c.get(key))) for row, c in zip(columns, configs, strict=True)}
            if len(pairs) == len({shown for shown, _ in pairs}):
                continue
        found.append(key)
    return found


def _differs(configs: list[Config], key: str) -> bool:
    """Whether two values differ; one that is not there differs from another of the same choice of its group."""
    choice = key.partition(".")[0] + OPTION
    if len({written(config[key]) for config in configs if key in config}) > 1:
        return True
    known = {config.get(choice) for config in configs if key in config}
    return any(key not in config and config.get(choice) in known for config in configs)


def written(value: Any) -> str:
    """A value as on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def title(key: str) -> str:
    """A key as one types it: ``model (option)`` is ``model``."""
    return key.removesuffix(OPTION)


def labels(configs: list[Config]) -> list[str]:
    """For each configuration the settings that tell it from the others, ``key=value key=value``; values shortened where
    that leaves them different."""
    words: list[list[str]] = [[] for _ in configs]
    for key in telling(configs):
        whole = [written(config[key]) if key in config else None for config in configs]
        short = [v if v is None or len(v) <= LONG else f"{v[: LONG - 1]}…" for v in whole]
        clear = len(set(short)) == len(set(whole))
        for own, value in zip(words, short if clear else whole, strict=True):
            if value is not None:
                own.append(f"{title(key)}={value}")
    return [" ".join(own) for own in words]
