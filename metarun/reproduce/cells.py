"""Published tables: which cells there are, what is done of them, and what is left to run."""

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
from metarun.results.result import OfRecipe, Result
from metarun.results.result_file import read
from metarun.runs import folder as run_folder
from metarun.runs import journal
from metarun.runs.experiment import Experiment
from metarun.runs.folder import RESULT, Record, departures
from metarun.verify import speed

RESULTS, SPEEDS = "results", "speeds.json"


def cells(table: str) -> list[str]:
    """The recipes of a table: a data set's, a single one, or ``all``. Raises ``UserError`` for a name of none."""
    every = config.choices("recipe")
    chosen = [name for name in every if table in ("all", name, name.split("/")[0])]
    if not chosen:
        hint = did_you_mean(table, [*tables(), *every])
        raise UserError(
            f"{table}: no such table{hint}; tables: {', '.join(tables())}, all, or a single cell: {', '.join(every)}"
        )
    return chosen


def folder(out: Path, cell: str, seed: int | str, budget: float) -> Path:
    """Where a cell's run lies; cell and seed may be Hydra's ``${...}``."""
    return out / RESULTS / (f"{cell}_s{seed}" + ("" if budget == 1 else f"_b{budget:g}"))


def missing(out: Path, chosen: list[str], seeds: list[int], budget: float) -> dict[tuple[str, ...], list[int]]:
    """Cells without a result -> the seeds that they all lack: each entry is one sweep."""
    sweeps: dict[tuple[str, ...], list[int]] = {}
    for seed in seeds:
        absent = tuple(cell for cell in chosen if not run_folder.finished(folder(out, cell, seed, budget)))
        if absent:
            sweeps.setdefault(absent, []).append(seed)
    return sweeps


def sweep(out: Path, chosen: Iterable[str], seeds: list[int], budget: float) -> list[str]:
    """What to ask of ``metarun train -m`` for these cells and seeds."""
    run_dir = folder(out, "${recipe.name}", "${seed}", budget)
    return [
        f"recipe={','.join(chosen)}",
        f"seed={','.join(map(str, seeds))}",
        f"recipe.budget={budget:g}",
        f"run_dir='{run_dir}'",
    ]


def finished(out: Path, cell: str) -> list[Path]:
    """The result files of a cell, all seeds and budgets."""
    return sorted((out / RESULTS / cell).parent.glob(f"{Path(cell).name}_s[0-9]*/{RESULT}"))


def results(out: Path, cell: str) -> list[Result]:
    """A cell's finished runs, all seeds and budgets.

    Raises ``UserError`` for a file that was changed after it was written, or whose settings are not the recipe's.
    """
    found = []
    for file in finished(out, cell):
        result = read(file)
        if not result.recipe or result.recipe.name != cell:
            raise UserError(f"{file}: is no result of recipe {cell}")
        _fits(file, result, result.recipe)
        found.append(result)
    return found


def published(cell: str, budget: float = 1.0, seed: int = 0) -> tuple[Experiment, Record]:
    """A recipe as it stands, composed once: a seventh of a second each."""
    return _composed(cell, budget, seed)


_composed = functools.cache(config.recipe)


def _fits(file: Path, result: Result, recipe: OfRecipe) -> None:
    _, record = published(recipe.name, recipe.budget, result.seed)
    for key, (has, wanted) in departures(result.config, record.identity()).items():
        raise UserError(f"{file}: does not fit its recipe: {key} is {has} there, {wanted} in {recipe.name}")


def state(out: Path, cell: str, seed: int, budget: float) -> str:
    """What there is of a cell's run: done, so many steps, or nothing."""
    run_dir = folder(out, cell, seed, budget)
    if run_folder.finished(run_dir):
        return "done"
    lines = journal.read(run_dir)
    return f"at step {lines[-1]['step']}" if lines else "not run"


def _measured(path: Path) -> dict[str, float]:
    """What was kept of measurements; nothing where it cannot be read, since they can be made again."""
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
    """The cells with their states and how long their meta-training takes here, from a short measurement of each.

    Measurements are kept in the user's cache folder. Cells with the same meta-training are measured once.
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
