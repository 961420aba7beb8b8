"""``result.json`` on disk: sealed against edits, read, and found in folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from metarun.errors import UserError
from metarun.files import finite, read_file, write_json
from metarun.results.result import UNFIT, Result


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with a SHA-256 over it as it is written, so that an edited file gives itself away."""
    return {**content, "sha256": _digest(finite(content))}


def _digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(file: Path, result: Result) -> None:
    """The result as a sealed ``result.json``."""
    write_json(file, sealed(result.to_json()))


def read(file: Path) -> Result:
    """One ``result.json``, with nan where it has null for a number that is not finite.

    Raises ``UserError`` for a file that is damaged or was changed after it was written.
    """
    try:
        content = json.loads(read_file(file) or b"")
        whole = content["sha256"] == _digest(content)
        result = Result.from_json(content)
    except UNFIT:
        raise UserError(f"{file}: damaged, or not written by metarun") from None
    if not whole:
        raise UserError(f"{file}: was changed after metarun wrote it (its sha256 does not fit)")
    return result


def find(paths: list[Path]) -> list[Result]:
    """Every ``result.json`` under the paths. Raises ``UserError`` for a path without one, and for a damaged one."""
    results = []
    for path in paths:
        files = sorted(path.rglob("result.json")) if path.is_dir() else [path] if path.exists() else []
        if not files:
            raise UserError(f"{path}: holds no finished run (no result.json)")
        results += [read(file) for file in files]
    return results
