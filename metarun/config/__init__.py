"""Settings from files and words: what a command line means, as one experiment. The only folder that knows Hydra."""

from metarun.config.composition import check, compose, from_hydra, recipe, reopen
from metarun.config.registry import choices, conf_dir

__all__ = ["check", "choices", "compose", "conf_dir", "from_hydra", "recipe", "reopen"]
