"""Hydra composes the same words once a process: nearly every test composes, and that takes a quarter of a second."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from metarun.config.registry import conf_dir

OURS = [("hydra", "pkg://hydra.conf"), ("main", str(conf_dir())), ("schema", "structured://")]


def remember(patch: pytest.MonkeyPatch) -> None:
    """Give Hydra a memory of what it made of metarun's own files; each caller gets a copy of its own.

    Where there is another folder it composes each time, and what it refuses is not kept.
    """
    load, known = ConfigLoaderImpl.load_configuration, dict[object, bytes]()

    def remembered(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *how: Any, **more: Any
    ) -> Any:
        searched = [(element.provider, element.path) for element in self.get_search_path().get_path()]
        if searched != OURS or any("hydra" in word for word in overrides):
            return load(self, config_name, overrides, *how, **more)
        types = repr(ConfigStore.instance().repo["schema"])
        key = config_name, tuple(overrides), how, tuple(sorted(more.items())), types
        if key not in known:
            known[key] = pickle.dumps(load(self, config_name, overrides, *how, **more))
        composed: DictConfig = pickle.loads(known[key])
        composed.hydra.runtime.cwd = os.getcwd()
        return composed

    patch.setattr(ConfigLoaderImpl, "load_configuration", remembered)
