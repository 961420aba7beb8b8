"""What a run leaves."""

from __future__ import annotations

import json
from pathlib import Path


def outcome(run_dir: Path) -> tuple[dict[str, bytes], list[dict], list[dict]]:
    """Everything of a run that must not hang on how often it was interrupted."""
    checkpoints = {path.name: path.read_bytes() for path in (run_dir / "checkpoints").glob("*.pt")}
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
        line.pop("tasks_per_s", None)
        line.pop("seal")  # of the times, too
    return checkpoints, lines, json.loads((run_dir / "result.json").read_text())["scores"]
