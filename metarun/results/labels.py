"""Find the settings in which the rows of a table, or the lines of a plot, differ."""

from __future__ import annotations

import json
from typing import Any

OPTION = " (option)"  # after a group's name: the key whose value is the chosen option
# setting -> column that makes it redundant, if the setting follows from the column in every row
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
FOLLOWS = {"eval.shot": "shot", "eval.query": "query"}  # setting -> the one it equals unless it is set
Config = dict[str, Any]  # dotted key -> value
LONG = 24  # characters of a value in a plot


def telling(configs: list[Config], columns: list[dict[str, Any]] | None = None) -> list[str]:
    """List the keys whose values differ.

    A key that only some options of a group have counts only if it differs among those: the option says the rest.

    Args:
        configs: the configurations.
        columns: column -> value of each configuration's row; keys that these columns show already are left out.
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
    """Whether two values differ; a missing value differs from one of the same option of its group."""
    choice = key.partition(".")[0] + OPTION
    if len({written(config[key]) for config in configs if key in config}) > 1:
        return True
    known = {config.get(choice) for config in configs if key in config}
    return any(key not in config and config.get(choice) in known for config in configs)


def written(value: Any) -> str:
    """Format a value as on the command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def title(key: str) -> str:
    """Return a key as it is typed: ``model`` for ``model (option)``."""
    return key.removesuffix(OPTION)


def labels(configs: list[Config]) -> list[str]:
    """Return for each configuration the settings in which it differs from others, as ``key=value key=value``.

    Long values are shortened if they stay different.
    """
    words: list[list[str]] = [[] for _ in configs]
    for key in telling(configs):
        whole = [written(config[key]) if key in config else None for config in configs]
        short = [v if v is None or len(v) <= LONG else f"{v[: LONG - 1]}…" for v in whole]
        clear = len(set(short)) == len(set(whole))
        for own, value in zip(words, short if clear else whole, strict=True):
            if value is not None:
                own.append(f"{title(key)}={value}")
    return [" ".join(own) for own in words]
