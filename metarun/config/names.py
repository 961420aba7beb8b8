"""Check the names in overrides with the YAML files alone, so that a misspelt key is reported before torch is imported.

``conf/`` states every key. Values are checked by ``composition.check``, which needs the types.
"""

from __future__ import annotations

from omegaconf import DictConfig

from metarun.compat.hydra import Types
from metarun.config.overrides import as_typed, check_choice, check_name, is_hydras, read, refuse_empty_sweep, samples
from metarun.config.registry import GROUPS, OPTIONAL, PACKAGES, modules
from metarun.config.session import compose_words, opened, without_hydra
from metarun.core import outer_settings


def check(arguments: list[str], multirun: bool = False, config_dir: str | None = None) -> None:
    """Check the keys and options of a command line.

    Nothing is checked if there are options of the user's own, since their files need not state every key.

    Args:
        arguments: the overrides, as typed.
        multirun: whether they are a sweep, so that every job is checked.
        config_dir: a folder with the user's own options; None: there is none.

    Raises:
        UserError: there is no such key or option; the message names it and the known ones.
    """
    if config_dir is not None:
        return
    known: dict[tuple[str, ...], DictConfig] = {}  # options -> the keys that they have
    with opened(_untyped()):
        overrides = read(as_typed(arguments, multirun))
        refuse_empty_sweep(overrides)
        for job in samples(overrides):
            mine = [override for override in read(job) if not is_hydras(override)]
            groups = [override for override in mine if override.key_or_group in (*GROUPS, *OPTIONAL)]
            for override in groups:
                check_choice(override)
            chosen = tuple(str(override.input_line) for override in groups)
            if chosen not in known:
                known[chosen] = without_hydra(compose_words(list(chosen)))
            for override in mine:
                if override not in groups:
                    check_name(known[chosen], override)


def _untyped() -> Types:
    """Return schemas that allow any key, in place of those that the YAML files begin with."""
    parts = [f"{group}/{name}" for group in PACKAGES for name in modules(group)]
    # the keys that the YAML files leave to the defaults of their types
    recipe, outer = {"budget": 1.0}, outer_settings.USUAL
    left = {name: outer if name.startswith("algo/") else {} for name in parts}
    return {"train": {}, "device": {}, "recipe": recipe, **left}
