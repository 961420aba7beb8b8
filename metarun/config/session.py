"""Compositions of ``conf/``: open it with Hydra for a while, and report Hydra's errors in one line."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metarun.compat.hydra import Types, clash, lacking, reading
from metarun.config.registry import conf_dir
from metarun.errors import ConfigError, UserError


def opened(types: Types, config_dir: str | None = None) -> AbstractContextManager[None]:
    """Let ``compose_words`` read ``conf/`` within the context.

    Args:
        types: name below ``/schema`` -> dataclass.
        config_dir: a folder with the user's own options, read after ``conf/``; None: there is none.

    Raises:
        ConfigError: there is no such folder.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError("--config-dir", config_dir, "an existing folder")
    return reading(conf_dir(), None if config_dir is None else Path(config_dir), types)


def compose_words(overrides: list[str]) -> DictConfig:
    """Compose a configuration, with Hydra's own keys, within ``opened``.

    Raises:
        UserError: the overrides or the YAML files do not fit together.
    """
    try:
        return hydra.compose("train", overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        text = re.sub(r"\s+", " ", str(error.__cause__ or error)).strip()
        if no := clash(text):
            chosen = next((word for word in overrides if word.startswith(f"{no.other}=")), f"the default of {no.other}")
            said = (
                f"does not go with {chosen}, which" if no.group != no.other else f"sets {no.key}, and what it builds on"
            )
            raise UserError(f"{no.group}={no.option}: {said} has no {no.key}") from None
        if lacks := lacking(text):
            allowed = f"one of {lacks.options}; others come with plugins, such as hydra-submitit-launcher"
            raise ConfigError(lacks.group, lacks.option, allowed) from None
        raise UserError(f"configuration: {text}") from None


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own keys."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
