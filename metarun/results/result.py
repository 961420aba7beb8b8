"""``result.json``: what a run measured, sealed against edits."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from metarun.errors import UserError
from metarun.files import finite, read_file

Result = dict[str, Any]


def sealed(result: Result) -> Result:
    """The result with a SHA-256 over its content as it is written, so that an edited file gives itself away."""
    return {**result, "sha256": _digest(finite(result))}


def _digest(content: Result) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read(file: Path) -> Result:
    """One ``result.json``, with nan where it has null for a number that is not finite.

    Raises ``UserError`` for a file that is damaged or was changed after it was written.
    """
    try:
        result = json.loads(read_file(file) or b"")
        whole = result["sha256"] == _digest(result)
        for score in result["scores"]:
            for entry in (score, *score["by_steps"]):
                entry.update({key: math.nan for key in ("mean", "ci95", "loss") if entry.get(key, 0) is None})
        _require_schema(result)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file}: damaged, or not written by metarun") from None
    if not whole:
        raise UserError(f"{file}: was changed after metarun wrote it (its sha256 does not fit)")
    return result


def _require_schema(result: Result) -> None:
    """Raise one of the errors that ``read`` knows where something that tables and pages look at is not there."""
    protocol = result["protocol"]
    told = [result["metric"], result["names"]["algo"], result["names"]["dataset"]]
    told += [protocol[key] for key in ("task", "split", "selection")]
    if not all(isinstance(text, str) for text in told) or not isinstance(result["config"], dict):
        raise TypeError
    numbers = [result["seed"], result["selected"]["step"], protocol["test_steps"]]
    for score in result["scores"]:
        score["norm"].partition(" ")
        numbers += [score["tasks"], *(entry[key] for entry in score["by_steps"] for key in ("steps", "mean", "ci95"))]
        numbers += [score["mean"], score["ci95"]]
    sum(numbers)


def find(paths: list[Path]) -> list[Result]:
    """Every ``result.json`` under the paths. Raises ``UserError`` for a path without one, and for a damaged one."""
    results = []
    for path in paths:
        files = sorted(path.rglob("result.json")) if path.is_dir() else [path] if path.exists() else []
        if not files:
            raise UserError(f"{path}: holds no finished run (no result.json)")
        results += [read(file) for file in files]
    return results
