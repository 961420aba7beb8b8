"""metarun: one bench for gradient-based meta-learning."""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from metarun.config.composition import compose
    from metarun.learner.export import export
    from metarun.learner.keep import load_adapted
    from metarun.learner.load import load
    from metarun.learner.train import train

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "export", "load", "load_adapted", "train"]

OFFERED = {
    "compose": "metarun.config.composition",
    "export": "metarun.learner.export",
    "load": "metarun.learner.load",
    "load_adapted": "metarun.learner.keep",
    "train": "metarun.learner.train",
}


def __getattr__(name: str) -> typing.Any:
    """Import what the package offers at its first use, since it needs torch."""
    if name not in OFFERED:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(OFFERED[name]), name)
