"""Settings from YAML files and command lines, as one experiment. Besides this folder only compat and cli know Hydra."""

from __future__ import annotations

import importlib
import typing

from metarun.config.registry import choices, conf_dir

if typing.TYPE_CHECKING:
    from metarun.config.composition import check, compose, from_hydra, recipe
    from metarun.config.earlier import reopen

__all__ = ["check", "choices", "compose", "conf_dir", "from_hydra", "recipe", "reopen"]


def __getattr__(name: str) -> typing.Any:
    """Import the rest at its first use, since it needs torch: ``metarun train --help`` needs only ``choices``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    file = "earlier" if name == "reopen" else "composition"
    return getattr(importlib.import_module(f"metarun.config.{file}"), name)
