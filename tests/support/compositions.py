"""Hydra composes the same groups once: nearly every test composes, and that takes a quarter of a second."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from metarun.config.registry import GROUPS, OPTIONAL, conf_dir
from metarun.files import write_atomic

OURS = [("hydra", "pkg://hydra.conf"), ("main", str(conf_dir())), ("schema", "structured://")]
VALUE = re.compile(rf"(?!hydra|({'|'.join((*GROUPS, *OPTIONAL))})=)[a-z]\w*(\.\w+)*=")  # a word that sets a value
MODE = "hydra.mode=RUN"  # Hydra's own word for a run


def remember(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Give Hydra a memory of what it made of the groups in metarun's own files; each caller gets a copy of its own.

    The workers of pytest-xdist share the folder. Values are set in the copy by Hydra's own code, which sets them after
    composing. Where there is another search path, or a word of another kind, it composes each time, and what it refuses
    is not kept.
    """
    load = ConfigLoaderImpl.load_configuration
    folder.mkdir(exist_ok=True)

    @functools.wraps(load)
    def remembered(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *how: Any, **more: Any
    ) -> Any:
        searched = [(element.provider, element.path) for element in self.get_search_path().get_path()]
        if searched != OURS or any("hydra" in word and word != MODE for word in overrides):
            return load(self, config_name, overrides, *how, **more)
        groups = [word for word in overrides if not VALUE.match(word)]
        types = repr(ConfigStore.instance().repo["schema"])
        key = config_name, tuple(groups), how, tuple(sorted(more.items())), types
        known = folder / hashlib.sha256(repr(key).encode()).hexdigest()
        if not known.exists():
            write_atomic(known, pickle.dumps(load(self, config_name, groups, *how, **more)))
        composed: DictConfig = pickle.loads(known.read_bytes())
        try:
            values = OverridesParser.create().parse_overrides([word for word in overrides if word not in groups])
            if any(value.is_sweep_override() for value in values):
                raise HydraException("a sweep")
            ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        except (HydraException, OmegaConfBaseException):
            return load(self, config_name, overrides, *how, **more)  # where each caller gets Hydra's own error
        task = [word for word in overrides if word != MODE]
        composed.hydra.overrides.task = task
        composed.hydra.job.override_dirname = ",".join(sorted(task))
        composed.hydra.runtime.cwd = os.getcwd()
        return composed

    patch.setattr(ConfigLoaderImpl, "load_configuration", remembered)
