"""Settings from files and words: what a command line means, as one experiment. Only compat and cli know Hydra, too."""

from __future__ import annotations

import importlib
import typing

from metarun.config.registry import choices, conf_dir

if typing.TYPE_CHECKING:
    from metarun.config.composition import check, compose, from_hydra, recipe, reopen

__all__ = ["check", "choices", "compose", "conf_dir", "from_hydra", "recipe", "reopen"]


def __getattr__(name: str) -> typing.Any:
    """The rest needs torch, and is imported at its first use: ``metarun train --help`` wants choices alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module("metarun.config.composition"), name)
