"""Readers of what trackers wrote."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def events(run_dir: Path) -> Any:
    """TensorBoard's own reader of a run's event files, with all that is in them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


# not importorskip: an import of Comet outside of the tracker may report errors to others, for as long as tests run
needs_comet = pytest.mark.skipif(
    importlib.util.find_spec("comet_ml") is None, reason="comet_ml is not installed: pip install 'metarun[comet]'"
)


def messages(file: Path) -> Iterator[dict[str, Any]]:
    """What Comet would send of one file."""
    with zipfile.ZipFile(file) as archive:
        for line in archive.read("messages.json").decode().splitlines():
            yield json.loads(line)["payload"]


def curves(files: list[Path]) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of all metrics in Comet's files."""
    found: dict[str, list[tuple[int, float]]] = {}
    for payload in (payload for file in files for payload in messages(file)):
        if "metric" in payload:
            of = payload["metric"]
            found.setdefault(of["metricName"], []).append((of["step"], of["metricValue"]))
    return found
