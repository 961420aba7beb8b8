"""``result.json`` on disk: write it with a checksum, read it, find it in folders."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarun.errors import UserError
from metarun.files import finite, read_file, write_json
from metarun.results.result import UNFIT, Result


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with its SHA-256, as a file has it, so that an edited file is recognised."""
    return {**content, "sha256": _digest(finite(content))}


def _digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(file: Path, result: Result) -> None:
    """Write a result as ``result.json``, with its checksum."""
    write_json(file, sealed(result.to_json()))


def read(file: Path) -> Result:
    """Read one ``result.json``; null becomes nan, since it stands for a number that is not finite.

    Raises:
        UserError: the file is damaged, or was changed after metarun wrote it.
    """
    try:
        content = json.loads(read_file(file) or b"")
        whole = content["sha256"] == _digest(content)
        result = replace(Result.from_json(content), folder=file.parent)
    except UNFIT:
        raise UserError(f"{file}: damaged, or not written by metarun") from None
    if not whole:
        raise UserError(f"{file}: was changed after metarun wrote it (its sha256 does not fit)")
    return result


def find(paths: list[Path]) -> list[Result]:
    """Read every ``result.json`` under the paths.

    Args:
        paths: folders or files.

    Raises:
        UserError: a path holds none, or a file is damaged.
    """
    results = []
    for path in paths:
        files = sorted(path.rglob("result.json")) if path.is_dir() else [path] if path.exists() else []
        if not files:
            raise UserError(f"{path}: holds no finished run (no result.json)")
        results += [read(file) for file in files]
    return results
