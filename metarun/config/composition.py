"""Configurations: schemas for Hydra, and checks that report every mistake in one line, before anything runs."""

from __future__ import annotations

import functools
import re
import typing
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.compat.hydra import Override, Types, jobs_of_sweep
from metarun.compat.omegaconf import node_of
from metarun.config.overrides import (
    as_command,
    as_typed,
    check_choice,
    is_hydras,
    plain,
    read,
    refuse_empty_sweep,
    refuse_sweep,
    refuse_unread,
    samples,
    searches,
    set_checked,
)
from metarun.config.registry import GROUPS, OPTIONAL, PACKAGES, choices, own_trackers, part_classes
from metarun.config.session import compose_words, opened, without_hydra
from metarun.engine.device import Device
from metarun.errors import ConfigError, UserError, require
from metarun.runs.experiment import Experiment
from metarun.runs.recipe import Recipe
from metarun.runs.record import Record, departures


def composing(config_dir: str | None = None) -> AbstractContextManager[None]:
    """Let configurations be composed within the context, with the types of the package's dataclasses."""
    OmegaConf.register_new_resolver("budget", _share_of, replace=True)
    OmegaConf.register_new_resolver("preset", _preset, replace=True)
    return opened(types(config_dir), config_dir)


def types(config_dir: str | None = None) -> Types:
    """Return the schemas below ``/schema``: ``train`` is the root, ``<group>/<module>`` the dataclass of each part."""
    parts = {f"{group}/{name}": node for group in PACKAGES for name, node in part_classes(group).items()}
    return {"train": Experiment, "device": Device, "recipe": Recipe, **parts, **own_trackers(config_dir)}


def _share_of(steps: int, *, _root_: DictConfig) -> int:
    """Resolve ``${budget:60000}`` of a recipe: the share ``recipe.budget`` of the published training length."""
    return max(1, round(steps * _root_.recipe.budget))


def _preset(key: str, usual: Any, *, _root_: DictConfig) -> Any:
    """Resolve ``${preset:inner_lr,0.4}`` of a method: the data set's own value if it states one, else the usual one."""
    return _root_.dataset.preset.get(key, usual)


def check(arguments: list[str], multirun: bool = False, config_dir: str | None = None, ranks: int = 1) -> None:
    """Check command-line overrides before anything runs.

    Args:
        arguments: the overrides.
        multirun: whether they are a sweep, so that every job is checked.
        config_dir: a folder with the user's own options; None: there is none.
        ranks: number of processes of the run.

    Raises:
        UserError: a key or a value is not allowed; the message names it and what is allowed.
    """
    with composing(config_dir):
        overrides = read(arguments)
        search = multirun and searches(overrides)
        if not multirun:
            refuse_sweep(overrides, "which needs -m")
            jobs = [arguments]
        elif search:
            jobs = samples(overrides)
            _suits_a_search(jobs[0])
        else:
            for override in overrides:
                if override.is_interval_sweep():
                    raise UserError(
                        f"{override.input_line}: an interval is for a sweeper that searches, such as optuna"
                    )
            refuse_empty_sweep(overrides)
            jobs = jobs_of_sweep(overrides)
        of_jobs = [_check_job(job, without_hydra=True) for job in jobs]
        for name, tracker in {name: each for x, _ in of_jobs for name, each in x.tracker.items()}.items():
            tracker.check(name)
        checked = [record.values for _, record in of_jobs]
        known = [not search and not any(map(_hydra_keys, read(job))) for job in jobs]  # where each will run
    for values in checked:
        require(values["meta_batch"] >= ranks, "meta_batch", values["meta_batch"], f">= {ranks}, the number of ranks")
    run_dirs = [values["run_dir"] for values, is_known in zip(checked, known, strict=True) if is_known]
    for run_dir in run_dirs:
        apart = run_dir is None or run_dirs.count(run_dir) == 1
        require(apart, "run_dir", run_dir, "left out in a sweep, or different for each job, e.g. run_dir=x/${seed}")


def _suits_a_search(job: list[str]) -> None:
    """Raise ``UserError`` if a sweeper that chooses by results gets none, or would search for the worst result."""
    composed = compose_words(job)
    experiment, _ = parse(*split(composed))
    require(experiment.eval.every > 0, "eval.every", 0, "> 0 with this sweeper, which chooses by validation results")
    direction = OmegaConf.select(composed, "hydra.sweeper.direction")
    metric = experiment.dataset.metric
    wanted = "maximize" if metric.larger_is_better else "minimize"
    if direction is not None:
        named = getattr(direction, "name", direction)
        allowed = f"{wanted}, since jobs return the {metric.words} on validation"
        require(named == wanted, "hydra.sweeper.direction", named, allowed)


def _check_job(arguments: list[str], without_hydra: bool = False) -> tuple[Experiment, Record]:
    """Check one job. With ``without_hydra``, skip values with ``${hydra:...}``, which only a job can resolve."""
    overrides = read(arguments)
    if without_hydra:
        arguments = [str(o.input_line) for o in overrides if not _hydra_keys(o)]
    groups = [o for o in overrides if o.key_or_group in (*GROUPS, *OPTIONAL)]
    for override in groups:
        check_choice(override)
    base, _ = split(compose_words([str(o.input_line) for o in groups]))
    for override in overrides:
        if override not in groups and not is_hydras(override):
            set_checked(base, override)
    composed = compose_words(arguments)
    experiment, record = parse(*split(composed))
    stated = functools.cache(lambda: plain(base))  # once for all words, and not for a word that refers to Hydra's keys
    for override in overrides:
        for key in _hydra_keys(override):
            if not _is_there(composed.hydra, key):
                raise UserError(f"{override.input_line}: Hydra has no key {key}")
        if override not in groups:
            refuse_unread(override, stated, experiment, record)
    return experiment, record


def _hydra_keys(override: Override) -> list[str]:
    """List Hydra's own keys that a value refers to."""
    return re.findall(r"\$\{hydra:([^}]*)\}", str(override.value()))


def _is_there(node: typing.Any, key: str) -> bool:
    """Whether a dotted key exists, with or without a value."""
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118 (in asks for values that are there)
            return False
        node = node_of(node, name)
    return True


def parse(cfg: DictConfig, chosen: dict[str, str]) -> tuple[Experiment, Record]:
    """Convert a composed configuration into live objects, and into the plain record that a run folder keeps.

    Args:
        cfg: the configuration without Hydra's own keys, with the types of ``Experiment``.
        chosen: group -> option.

    Raises:
        UserError: a value is missing or out of range.
    """
    try:
        OmegaConf.merge(cfg, OmegaConf.to_container(cfg, resolve=True))  # of the right types, interpolated values too
        experiment = _live(cfg)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key or str(error).splitlines()[0]}: has no value, and needs one") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from None
    values = plain(OmegaConf.structured(experiment))  # where a method put another value in the place of a default
    del values["tracker"]  # a run is the same with any, and addresses may have a password in them
    kinds = {group: type(getattr(experiment, group)).__module__.rpartition(".")[2] for group in GROUPS}
    return experiment, Record(names=chosen, kinds=kinds, values=values)


def _live(cfg: DictConfig) -> Experiment:
    """Return the experiment of a configuration; an error names the group that it is in."""
    try:
        return typing.cast(Experiment, OmegaConf.to_object(cfg))
    except ConfigError:
        recipe, trackers = ["recipe"] if cfg.recipe else [], [f"tracker.{name}" for name in cfg.tracker]
        for group in (*GROUPS, "eval", *recipe, *trackers):
            try:
                OmegaConf.to_object(OmegaConf.select(cfg, group))
            except ConfigError as error:
                raise error.under(group) from None
        raise


def compose(overrides: list[str], config_dir: str | None = None) -> tuple[Experiment, Record]:
    """Return the experiment that ``metarun train`` would run with these overrides, for scripts and tests.

    ``config_dir`` is a folder with the user's own options.

    Raises:
        UserError: a key or a value is not allowed, or the overrides are a sweep.
    """
    with composing(config_dir):
        typed = as_typed(overrides)
        refuse_sweep(read(typed), "which only metarun train -m runs")
        experiment, record = beside_its_recipe(*_check_job(typed))
    return experiment, replace(record, command=["train", *as_command(overrides)])


def recipe(name: str, budget: float = 1.0, seed: int = 0) -> tuple[Experiment, Record]:
    """Return a recipe's experiment as ``compose`` does, in a quarter of the time, because nothing is checked.

    Args:
        name: data set and cell, for example ``omniglot/maml_5w1s``.
        budget: share of the published training length, > 0 and <= 1.
        seed: the run's seed.
    """
    with composing():
        return _recipe(name, budget, seed)


def _recipe(name: str, budget: float, seed: int) -> tuple[Experiment, Record]:
    return parse(*split(compose_words([f"recipe={name}", f"recipe.budget={budget}", f"seed={seed}"])))


def from_hydra(cfg: DictConfig, chosen: dict[str, str]) -> tuple[Experiment, Record]:
    """Convert the configuration that ``hydra.main`` passes to a job, as ``parse`` does.

    Args:
        cfg: the configuration without Hydra's own keys.
        chosen: group -> option, for Hydra's own groups too.

    Raises:
        UserError: a value is missing or out of range.
    """
    return beside_its_recipe(*parse(_typed(cfg), {group: str(chosen[group]) for group in GROUPS}))


def beside_its_recipe(experiment: Experiment, record: Record) -> tuple[Experiment, Record]:
    """Return the same with ``changed`` of the record filled in: the settings that differ from the recipe's."""
    recipe = experiment.recipe
    if recipe is None or recipe.name not in choices("recipe"):
        return experiment, record
    _, published = _recipe(recipe.name, recipe.budget, experiment.seed)
    changed = departures(record.identity(), published)
    return experiment, replace(record, changed=[f"{key}={value}" for key, (value, _) in changed.items()])


def split(cfg: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Return the experiment's part of a composition, and the option chosen in each group."""
    chosen = {group: str(cfg.hydra.runtime.choices[group]) for group in GROUPS}
    return _typed(without_hydra(cfg)), chosen


def _typed(cfg: DictConfig) -> DictConfig:
    """Give a configuration the types of ``Experiment``: Hydra's root has none."""
    return typing.cast(DictConfig, OmegaConf.merge(_types(), cfg))


@functools.cache  # reading the class takes as long as the merge, which changes a copy
def _types() -> DictConfig:
    return OmegaConf.structured(Experiment)
