"""Train from Python, as ``metarun train`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metarun.config.composition import compose
from metarun.runs.run import run


def train(overrides: Sequence[str] = ()) -> Path:
    """Meta-train, test and report; an unfinished run of the same configuration is resumed.

    Args:
        overrides: settings as on the command line, such as ``["algo=fomaml", "dataset=glyphs", "steps=100"]``.

    Returns:
        The run folder, for ``metarun.load``.

    Raises:
        UserError: a setting is not allowed, or settings and data do not fit together.
        NotFinite: training diverged.
    """
    return run(*compose(list(overrides)))
