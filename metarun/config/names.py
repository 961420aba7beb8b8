"""The names in overrides, held against the YAML files alone: a misspelt key is answered before torch is imported.

``conf/`` states every key; what the types say besides, which values a key takes, is ``composition.check``'s.
"""

from __future__ import annotations

from dataclasses import asdict

from omegaconf import DictConfig

from metarun.compat.hydra import Types
from metarun.config.overrides import as_typed, check_choice, check_name, is_hydras, read, refuse_empty_sweep, samples
from metarun.config.registry import GROUPS, PARTS, modules
from metarun.config.session import compose_words, opened, without_hydra
from metarun.core.outer_settings import ProMP, TrustRegion


def check(arguments: list[str], multirun: bool = False, config_dir: str | None = None) -> None:
    """Check the keys and choices of a command line, with ``multirun`` those of a sweep's jobs.

    Does nothing where the user's own choices are read too, since those files need not state every key.
    Raises ``UserError`` with one line that names the key and what there is.
    """
    if config_dir is not None:
        return
    known: dict[tuple[str, ...], DictConfig] = {}  # choices -> the keys that they bring
    with opened(_untyped()):
        overrides = read(as_typed(arguments, multirun))
        refuse_empty_sweep(overrides)
        for job in samples(overrides):
            mine = [override for override in read(job) if not is_hydras(override)]
            groups = [override for override in mine if override.key_or_group in (*GROUPS, "recipe")]
            for override in groups:
                check_choice(override)
            chosen = tuple(str(override.input_line) for override in groups)
            if chosen not in known:
                known[chosen] = without_hydra(compose_words(list(chosen)))
            for override in mine:
                if override not in groups:
                    check_name(known[chosen], override)


def _untyped() -> Types:
    """Types that take any key, in the places of those that the YAML files begin with."""
    parts = [f"{group}/{name}" for group in PARTS for name in modules(group)]
    # the keys that the YAML files leave to the defaults of their types
    recipe, outer = {"budget": 1.0}, {"trust_region": asdict(TrustRegion()), "promp": asdict(ProMP())}
    left = {name: outer if name.startswith("algo/") else {} for name in parts}
    return {"train": {}, "device": {}, "recipe": recipe, **left}
