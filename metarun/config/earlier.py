"""Open the configuration of an earlier run again, with the settings of a new use of its parameters."""

from __future__ import annotations

from pathlib import Path

from metarun.config.composition import reopen
from metarun.errors import ConfigError, UserError, did_you_mean
from metarun.runs import checkpoint
from metarun.runs.experiment import Experiment, Select
from metarun.runs.record import CONFIG, Record


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
