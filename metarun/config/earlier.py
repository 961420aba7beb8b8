"""Open the configuration of an earlier run again, with the settings of a new use of its parameters."""

from __future__ import annotations

import functools
import typing
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.config.composition import beside_its_recipe, composing, parse, split
from metarun.config.overrides import (
    INSTEAD,
    check_choice,
    only_training_reads,
    plain,
    read,
    refuse_sweep,
    refuse_unread,
    set_checked,
)
from metarun.config.registry import GROUPS, PARTS, part
from metarun.config.session import compose_words
from metarun.datasets.base import Dataset
from metarun.engine.device import Device
from metarun.errors import ConfigError, UserError, did_you_mean, first_line
from metarun.runs import checkpoint
from metarun.runs.experiment import Experiment, Select
from metarun.runs.record import CONFIG, Record, trained_elsewhere


def opened(run_dir: Path, which: str | None, overrides: list[str]) -> tuple[Experiment, Record]:
    """Return the experiment of a run folder, with some settings changed for a test or another use.

    Args:
        run_dir: the run folder.
        which: best or last, the checkpoint to use; None: the run's own choice.
        overrides: as for ``reopen``.

    Raises:
        UserError: it is no run folder, or a setting is not allowed. An error that the overrides do not cause names the
            file that it is in.
    """
    known = Select.__members__
    if which and which not in known:
        raise ConfigError("checkpoint", which, f"one of {', '.join(known)}{did_you_mean(which, known)}")
    record = Record.read(run_dir)
    if record is None:
        raise UserError(f"run={run_dir}: is no run folder (no config.json)")
    if which and checkpoint.tested_alone(run_dir) and record.values["eval"]["select"] != which:
        own = record.values["eval"]["select"]
        raise ConfigError("checkpoint", which, f"{own}, or left out: {run_dir} has the parameters alone that it tested")
    if which and checkpoint.selected(run_dir):  # else both are the last parameters, as the run has them
        record = record.tested_on(which)
    try:
        return reopen(record, overrides)
    except UserError:
        try:
            reopen(record, [])
        except UserError as error:
            raise UserError(f"{run_dir / CONFIG}: {error}") from None
        raise


def reopen(record: Record, arguments: list[str]) -> tuple[Experiment, Record]:
    """Return the experiment of an earlier run, with some settings changed for a test of its parameters.

    Args:
        record: the run's record.
        arguments: overrides of single keys and of ``device``.

    Raises:
        UserError: a key or a value is not allowed, only training reads it, or the record does not fit this version.
    """
    cfg, before = OmegaConf.structured(Experiment), record
    chosen = dict(record.names)
    for group in GROUPS:
        if group in record.kinds:
            cfg[group] = OmegaConf.structured(Device if group == "device" else part(group, record.kinds[group]))
        else:  # the group is younger than the run
            with composing():
                default, options = split(compose_words([]))
            cfg[group], chosen[group] = default[group], options[group]
    try:
        cfg = typing.cast(DictConfig, OmegaConf.merge(cfg, record.values))
    except OmegaConfBaseException as error:
        text = f"this run's configuration does not fit this version of metarun: {error.full_key}: {first_line(error)}"
        raise UserError(text) from None
    set_here, other, trained = [], False, typing.cast(Dataset, OmegaConf.to_object(cfg.dataset))
    with composing():
        overrides = read(arguments)
        overrides.sort(key=lambda override: override.key_or_group != "dataset")  # its keys after it
        refuse_sweep(overrides, "and an evaluation is one; start it once for each")
        for override in overrides:
            if override.key_or_group == "device":
                check_choice(override)
                chosen["device"] = str(override.value())
                cfg.device = compose_words([f"device={override.value()}"]).device
            elif override.key_or_group == "dataset":
                check_choice(override)
                other = override.value() != chosen["dataset"]
                chosen["dataset"] = str(override.value())
                cfg.dataset = compose_words([f"dataset={override.value()}"]).dataset if other else cfg.dataset
            elif override.key_or_group in PARTS:
                raise UserError(f"{override.input_line}: a trained run keeps its {override.key_or_group}")
            elif only_training_reads(override.key_or_group, typing.cast(typing.Any, OmegaConf.get_type(cfg.algo))):
                key = override.key_or_group
                instead = f"; {INSTEAD[key]} is for the test" if key in INSTEAD else ""
                raise UserError(f"{override.input_line}: only training reads {key}, and that is over{instead}")
            else:
                set_checked(cfg, override)
                set_here.append(override)
        experiment, record = parse(cfg, chosen)
        stated = functools.cache(lambda: plain(cfg))
        for override in set_here:
            refuse_unread(override, stated, experiment, record)
        record = replace(record, start=before.start, extended=before.extended)
        if other:
            elsewhere = trained_elsewhere(before, trained, experiment.dataset, chosen["dataset"])
            record = replace(record, trained_on=elsewhere)
        return beside_its_recipe(experiment, record)
