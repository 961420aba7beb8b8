"""Overrides, the ``key=value`` words of a command line: read them, and check them with a composed configuration."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.compat import hydra
from metarun.compat.hydra import IntervalSweep, Override
from metarun.compat.omegaconf import has_keys, node_of
from metarun.config.registry import GROUPS
from metarun.errors import ConfigError, UserError, did_you_mean, did_you_mean_key, in_words, meant

if typing.TYPE_CHECKING:  # importing them brings torch
    from metarun.algorithms.base import Algorithm
    from metarun.runs.experiment import Experiment
    from metarun.runs.record import Record

PATHS = ("run_dir", "data_root", "init", "dataset.path")  # keys whose values are paths, and no words of Hydra's grammar


def as_typed(words: list[str], multirun: bool = False) -> list[str]:
    """Quote the paths for Hydra, which gives spaces, =, ~, brackets and other signs a meaning of its own.

    Args:
        words: the overrides, as typed.
        multirun: whether they are a sweep, so that a path may be several values.

    Returns:
        The overrides. Paths that are quoted already or are a sweep are as they were.

    Raises:
        UserError: a path is empty, as an unset variable of the shell leaves it.
    """
    return [_quoted(word, multirun) for word in words]


def _quoted(word: str, multirun: bool) -> str:
    key, _, path = word.partition("=")
    if key not in PATHS or "=" not in word or path == "null":
        return word
    if not path.strip():
        raise UserError(f"{word}: has no value (an unset variable of the shell?); leave it out, or name a path")
    quoted = len(path) > 1 and path[0] == path[-1] and path[0] in "'\""
    if quoted or (multirun and ("," in path or path.startswith(("choice(", "glob(")))):
        return word
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", path)  # a backslash means itself, but before a quote
    return f"{key}='" + doubled.replace("'", "\\'") + "'"


def as_command(words: Iterable[str]) -> list[str]:
    """Return the words as reports show them: paths as they may be typed, the inverse of ``as_typed``, and no trackers.

    Trackers are no part of a run, and their addresses may have a password in them.
    """
    shown = []
    for word in words:
        if re.match(r"[+~]*tracker\b", word):
            continue
        plain = re.sub(r"='(.*\S.*)'$", r"=\1", word).replace("\\'", "'")
        shown.append(plain if plain != word and as_typed([plain]) == [word] else word)
    return shown


def read(arguments: list[str]) -> list[Override]:
    """Parse overrides with Hydra.

    Raises:
        UserError: Hydra cannot parse one of them.
    """
    overrides = []
    for argument in arguments:
        try:
            overrides += hydra.parse(argument)
        except OverrideParseException:
            raise UserError(f"{argument}: cannot be read; write key=value, and quote special characters") from None
    return overrides


def searches(overrides: list[Override]) -> bool:
    """Whether a sweeper, such as optuna, chooses the jobs while the sweep runs."""
    return any(o.key_or_group == "hydra/sweeper" and o.value() not in (None, "basic") for o in overrides)


def samples(overrides: list[Override]) -> list[list[str]]:
    """List jobs that a sweep may contain: one of every key's first value, and one for each other value of each key."""
    values: list[list[str]] = []
    for override in overrides:
        value = override.value()
        if isinstance(value, IntervalSweep):
            values.append([f"{override.key_or_group}={end}" for end in (value.start, value.end)])
        elif override.is_sweep_override():
            values.append([f"{override.key_or_group}={each}" for each in override.sweep_string_iterator()])
        else:
            values.append([str(override.input_line)])
    first = [of_key[0] for of_key in values]
    return [first, *([*first[:i], other, *first[i + 1 :]] for i, of_key in enumerate(values) for other in of_key[1:])]


def refuse_sweep(overrides: list[Override], hint: str) -> None:
    """Raise ``UserError`` if an override has several values; ``hint`` ends the message."""
    for override in overrides:
        if override.is_sweep_override() and override.key_or_group == "tracker":
            raise UserError(f"{override.input_line}: several trackers are a list, such as tracker=[comet,tensorboard]")
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: several values are a sweep, {hint}")


def refuse_empty_sweep(overrides: list[Override]) -> None:
    """Raise ``UserError`` if an override is a sweep without values."""
    for override in overrides:
        if override.is_discrete_sweep() and not list(override.sweep_iterator()):
            raise UserError(f"{override.input_line}: is a sweep without values")


def check_choice(override: Override) -> None:
    """Raise ``ConfigError`` if an override of a group names no option of the group."""
    group, value = override.key_or_group, override.value()
    if group == "recipe":
        folders = {folder: hydra.options(f"recipe/{folder}") for folder in hydra.subgroups(group)}
        options = [f"{folder}/{name}" for folder in folders for name in folders[folder]]
    else:
        options = hydra.options(group)
    chosen = [value]
    if group == "tracker":
        chosen = value if isinstance(value, list) else [] if value is None else [value]
    if override.is_add() or override.is_delete() or override.package is not None:
        raise ConfigError(group, value, f"one of {', '.join(options)}")
    for name in chosen:
        if name not in options:
            raise ConfigError(group, name, f"one of {', '.join(options)}{did_you_mean(str(name), options)}")


def is_hydras(override: Override) -> bool:
    """Whether an override is of one of Hydra's own keys."""
    return override.key_or_group.startswith("hydra")


def check_name(cfg: DictConfig, override: Override) -> None:
    """Raise ``UserError`` if a composed configuration has no such key, or it cannot be set."""
    key = override.key_or_group
    if key.startswith("recipe.") and key != "recipe.budget":
        raise UserError(f"{override.input_line}: comes with the recipe; of its keys only recipe.budget can be set")
    known = list(leaves(cfg))
    if override.is_delete() or override.package is not None:
        raise UserError(f"{override.input_line}: keys can be set, not removed or moved")
    if key.startswith("recipe.") and key not in known:
        raise UserError(f"{override.input_line}: belongs to a recipe; choose one, such as recipe=sinusoid/maml_5s")
    if key.startswith("tracker.") and not any(name.startswith(f"{key.rpartition('.')[0]}.") for name in known):
        raise UserError(f"{override.input_line}: belongs to a tracker; choose it: tracker={key.split('.')[1]}")
    if key.startswith("dataset.preset."):
        own = f"algo.{key.removeprefix('dataset.preset.')}"
        raise UserError(f"{override.input_line}: a preset belongs to its data set; set the method's own key, as {own}")
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        if inside:
            raise UserError(f"{override.input_line}: {key} is a group of keys: {', '.join(inside)}")
        parent = key.rpartition(".")[0]
        siblings = [name for name in known if parent and name.rpartition(".")[0] == parent]
        near = did_you_mean_key(key, siblings) or did_you_mean_key(key, [*reversed(known), *GROUPS])
        hint = near or f"; keys: {', '.join(siblings or known)}"
        raise UserError(f"{override.input_line}: no such key{hint}")


def set_checked(cfg: DictConfig, override: Override) -> None:
    """Set one key of a composed configuration.

    A value with ``${...}`` is not set: composing resolves and checks it.

    Raises:
        UserError: there is no such key, or it cannot be set.
        ConfigError: the value does not have the key's type.
    """
    check_name(cfg, override)
    key, value = override.key_or_group, override.value()
    if key in PATHS and isinstance(value, str) and not value.strip():
        raise UserError(f"{override.input_line}: is empty; leave it out, or name a path")
    if isinstance(value, str) and "${" in value:
        return
    kind = declared_type(cfg, key)
    try:
        fits = not (kind is bool and not isinstance(value, bool))
        fits = fits and not (isinstance(value, float) and not math.isfinite(value))
        if fits:
            OmegaConf.update(cfg, key, value)
    except OmegaConfBaseException:
        fits = False
    if not fits:
        raise ConfigError(key, value, f"{in_words(kind)}{meant(kind, value)}")


def refuse_unread(
    override: Override, stated: Callable[[], dict[str, Any]], experiment: Experiment, record: Record
) -> None:
    """Refuse a value that nothing reads, or that a method or a data set replaces by another one.

    Args:
        override: the override.
        stated: returns the values of a configuration in which this one is set, as ``plain`` does.
        experiment: the experiment that runs.
        record: its record.

    Raises:
        UserError: the value would have no effect.
    """
    key, value = override.key_or_group, override.value()
    if reader := experiment.unread().get(key):
        raise UserError(f"{override.input_line}: nothing reads it, only {reader} would; leave it out")
    if is_hydras(override) or key.startswith("tracker.") or (isinstance(value, str) and "${" in value):
        return
    typed, runs = (pluck(values, key) for values in (stated(), record.values))
    if typed != runs:
        chosen = " ".join(f"{group}={record.names[group]}" for group in ("algo", "dataset"))
        raise UserError(f"{override.input_line}: with {chosen} it is {runs} and nothing else; leave it out")


def leaves(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values, each after ``prefix``."""
    for name in map(str, cfg):
        node = node_of(cfg, name)
        if has_keys(node):
            yield from leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def declared_type(cfg: DictConfig, key: str) -> Any:
    """Return the type that the dataclass states for a dotted key."""
    parent, _, name = key.rpartition(".")
    owner = OmegaConf.get_type(OmegaConf.select(cfg, parent) if parent else cfg)
    return typing.get_type_hints(owner)[name]


# keys of the root and of eval that a test does not read, and the keys that a test reads instead
TRAINING = (
    *("steps", "meta_batch", "seed", "shot", "query", "checkpoint_every", "log_every", "resume", "run_dir", "init"),
    *("extend", "eval.every", "eval.patience", "eval.select"),
)
INSTEAD = {
    "shot": "eval.shot",
    "query": "eval.query",
    "seed": "eval.seed",
    "eval.select": "checkpoint=best|last",
    "algo.inner_steps": "algo.eval_inner_steps",
    "algo.inner_batch": "algo.eval_inner_batch",
}


def only_training_reads(key: str, algorithm: type[Algorithm]) -> bool:
    """Whether a test of a trained run would be the same for any value of this key."""
    group, name, *_ = (*key.split("."), "")
    if key == "eval.val_tasks":
        return not algorithm.tunes()
    return key in TRAINING or group == "recipe" or (group == "algo" and name in algorithm.training_only())


def plain(cfg: Any) -> dict[str, Any]:
    """Convert a configuration into dicts, lists, numbers and text; enum members become their names."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def pluck(values: dict[str, Any], key: str) -> Any:
    """Return the value of a dotted key in nested dicts."""
    for name in key.split("."):
        values = values[name]
    return values
