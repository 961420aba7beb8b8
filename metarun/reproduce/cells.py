"""Cells of the published tables: their recipes, finished runs and missing runs."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from metarun import config
from metarun.config.registry import tables
from metarun.errors import UserError, did_you_mean
from metarun.files import cache_dir, write_json
from metarun.progress import progress_bar
from metarun.results.result import Result
from metarun.results.result_file import read
from metarun.runs import folder as run_folder
from metarun.runs import journal
from metarun.runs.experiment import Experiment
from metarun.runs.folder import RESULT
from metarun.runs.record import Record, departures
from metarun.verify import speed

RESULTS, SPEEDS = "results", "speeds.json"


def cells(table: str) -> list[str]:
    """List the cells of a table.

    Args:
        table: a data set, a single cell such as ``omniglot/maml_5w1s``, or ``all``.

    Raises:
        UserError: there is no such table.
    """
    every = config.choices("recipe")
    chosen = [name for name in every if table in ("all", name, name.split("/")[0])]
    if not chosen:
        hint = did_you_mean(table, [*tables(), *every])
        raise UserError(
            f"{table}: no such table{hint}; tables: {', '.join(tables())}, all, or a single cell: {', '.join(every)}"
        )
    return chosen


def folder(out: Path, cell: str, seed: int | str, budget: float) -> Path:
    """Return the run folder of a cell. Cell and seed may be ``${...}``, which Hydra resolves."""
    return out / RESULTS / (f"{cell}_s{seed}" + ("" if budget == 1 else f"_b{budget:g}"))


def missing(out: Path, chosen: list[str], seeds: list[int], budget: float) -> dict[tuple[str, ...], list[int]]:
    """Find the runs that have no result.

    Args:
        out: the command's folder.
        chosen: the cells.
        seeds: the seeds.
        budget: share of the published training length, 0..1.

    Returns:
        Cells -> seeds that all of these cells lack; each entry is one sweep.
    """
    sweeps: dict[tuple[str, ...], list[int]] = {}
    for seed in seeds:
        absent = tuple(cell for cell in chosen if not run_folder.finished(folder(out, cell, seed, budget)))
        if absent:
            sweeps.setdefault(absent, []).append(seed)
    return sweeps


def sweep(out: Path, chosen: Iterable[str], seeds: list[int], budget: float) -> list[str]:
    """Return the overrides with which ``metarun train -m`` runs these cells and seeds."""
    run_dir = folder(out, "${recipe.name}", "${seed}", budget)
    return [
        f"recipe={','.join(chosen)}",
        f"seed={','.join(map(str, seeds))}",
        f"recipe.budget={budget:g}",
        f"run_dir='{run_dir}'",
    ]


def finished(out: Path, cell: str) -> list[Path]:
    """List the result files of a cell, of all seeds and budgets."""
    return sorted((out / RESULTS / cell).parent.glob(f"{Path(cell).name}_s[0-9]*/{RESULT}"))


def results(out: Path, cell: str) -> list[Result]:
    """Read the results of a cell, of all seeds and budgets.

    Raises:
        UserError: a file was changed after metarun wrote it, or its settings are not those of the recipe.
    """
    return [require_fit(file, cell) for file in finished(out, cell)]


def require_fit(file: Path, cell: str) -> Result:
    """Read a result of a cell. Raises ``UserError`` where it is damaged, or its settings are not the recipe's."""
    result = read(file)
    if not result.recipe or result.recipe.name != cell:
        raise UserError(f"{file}: is not a result of recipe {cell}")
    _, record = published(cell, result.recipe.budget, result.seed)
    for key, (has, wanted) in departures(result.config, record).items():
        raise UserError(f"{file}: does not fit its recipe: {key} is {has} there, {wanted} in {cell}")
    return result


def published(cell: str, budget: float = 1.0, seed: int = 0) -> tuple[Experiment, Record]:
    """Return a recipe's experiment. Each is composed only once, since that takes a seventh of a second."""
    return _composed(cell, budget, seed)


_composed = functools.cache(config.recipe)


def state(out: Path, cell: str, seed: int, budget: float) -> str:
    """Describe the state of a cell's run: done, the meta-iterations done, or not run."""
    run_dir = folder(out, cell, seed, budget)
    if run_folder.finished(run_dir):
        return "done"
    lines = journal.read(run_dir)
    return f"at meta-iteration {lines[-1]['step']}" if lines else "not run"


def _measured(path: Path) -> dict[str, float]:
    """Read stored measurements; none if they cannot be read, since they can be made again."""
    try:
        known = json.loads(path.read_text())
        return {key: float(speed) for key, speed in known.items() if float(speed) > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(path: Path, known: dict[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    except OSError as error:
        warnings.warn(f"{path}: not kept ({error})", stacklevel=2)


def listing(out: Path, chosen: list[str], seeds: list[int], budget: float, words: list[str]) -> str:
    """List cells with the time that their meta-training takes on this machine, and with the states of their runs.

    The time is computed from a short measurement, which is kept in the user's cache folder. Cells with the same
    meta-training are measured once.

    Args:
        out: the command's folder.
        chosen: the cells.
        seeds: the seeds.
        budget: share of the published training length, 0..1.
        words: overrides of the device.

    Returns:
        A table as text.
    """
    path = cache_dir() / SPEEDS
    known = _measured(path)
    device = config.compose(words)[0].device
    lines = [f"{'cell':40}{'meta-training':>16}  " + "  ".join(f"seed {seed}" for seed in seeds)]
    for cell in progress_bar(chosen, desc="measuring", unit="cell"):
        x, record = published(cell, budget)
        x = replace(x, device=device)
        with device.applied() as where:
            key = f"{record.hash(training_only=True)} with {asdict(device)} on {speed.device_name(where)}"
        if key not in known:
            known[key] = speed.throughput(x, seconds=1.0)
            _keep(path, known)
        seconds = x.steps * x.meta_batch / known[key]
        unit, name = next((u, n) for u, n in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= u or u == 1)
        length = f"{seconds / unit:.1f} {name}"
        lines.append(f"{cell:40}{length:>16}  " + "  ".join(state(out, cell, seed, budget) for seed in seeds))
    return "\n".join(lines)
