"""Keep finished cells in a zoo, and write the page that lists its entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from metarun.errors import UserError
from metarun.files import read_file, write_atomic, write_text
from metarun.reproduce import cells
from metarun.results import result_file
from metarun.results.result import Result
from metarun.runs import checkpoint
from metarun.runs.folder import RESULT
from metarun.runs.record import Record
from metarun.runs.zoo import PAGE, names

MOST = 2_000_000  # bytes of meta-parameters, for each set of them that an ensemble has
OF_THIS_MACHINE = ("run_dir", "data_root")  # settings of a run that say where its files lay


def keep(out: Path, chosen: list[str], seed: int, zoo: Path) -> list[str]:
    """Keep the cells of which a run with the whole published training is finished; others are left as they are.

    An entry is a run folder: ``config.json`` without paths, ``result.json``, and ``checkpoints/tested.pt``. The zoo's
    page is written again.

    Args:
        out: the command's folder.
        chosen: the cells.
        seed: the seed of the runs.
        zoo: the zoo's folder.

    Returns:
        The cells that were kept.

    Raises:
        UserError: a run has no checkpoint, or one that is not of its result, is too large, or is not float32.
    """
    done = [cell for cell in chosen if read_file(cells.folder(out, cell, seed, 1) / RESULT) is not None]
    entries = {cell: _entry(cells.folder(out, cell, seed, 1), cell) for cell in done}
    for cell, (record, result, parameters) in entries.items():
        target = zoo / cell
        checkpoint.folder(target).mkdir(parents=True, exist_ok=True)
        write_atomic(checkpoint.folder(target) / checkpoint.TESTED, parameters)
        result_file.write(target / RESULT, result)
        record.write(target)  # last: with it, the folder is an entry
    zoo.mkdir(parents=True, exist_ok=True)
    write_text(zoo / PAGE, page(zoo))
    return done


def _entry(run_dir: Path, cell: str) -> tuple[Record, Result, bytes]:
    """Read what an entry holds, and check that it belongs together."""
    cells.require_fit(run_dir / RESULT, cell)
    record, result = Record.read(run_dir), result_file.read(run_dir / RESULT)
    assert record is not None, "a finished run has a record"
    best = result.selected.validation is not None
    path = checkpoint.folder(run_dir) / (checkpoint.BEST if best else checkpoint.LAST)
    if read_file(path) is None:
        raise UserError(f"{path}: is not there, and the zoo keeps what it holds")
    try:
        content = checkpoint.read(path)
    except checkpoint.Damaged as error:
        raise UserError(str(error)) from None
    if content["step"] != result.selected.step:
        told = f"is of meta-iteration {content['step']}, and the result of {result.selected.step}"
        raise UserError(f"{path}: {told}")
    sets = [of["meta"] for of in (content, *content.get("others", []))]
    other = sorted({str(value.dtype) for meta in sets for value in meta.values()} - {str(torch.float32)})
    if other:
        raise UserError(f"{path}: has {', '.join(other)}, and the zoo keeps torch.float32")
    parameters = checkpoint.encode({k: v for k, v in content.items() if k not in ("optimizer", "selection")})
    most = MOST * len(sets)
    if len(parameters) > most:
        raise UserError(f"{path}: its meta-parameters take {len(parameters)} bytes, and the zoo keeps {most} at most")
    anywhere = {key: value for key, value in record.values.items() if key not in OF_THIS_MACHINE}
    values = {**anywhere, **{key: None for key in OF_THIS_MACHINE}}
    return replace(record, values=values, command=[]), result, parameters


ABOVE = """\
# The zoo

Trained initialisations of finished recipes. Written by `metarun reproduce ... zoo=zoo`; not edited by hand.

```
metarun eval run=zoo:NAME eval.tasks=1000
metarun adapt run=zoo:NAME support=photos/known out=fruit.model
metarun train init=zoo:NAME ...
```

In Python, `metarun.load("zoo:NAME")`. Results of `eval` go to `outputs/zoo/NAME`. Each entry is the run of one seed;
what other seeds and the papers have stands in `benchmarks/RESULTS.md`.

| name | task | size | result | inner steps | tasks | query | norm | split | parameters | recipe |
|---|---|---|---|---|---|---|---|---|---|---|
"""
BELOW = """
± is the 95 % interval over test tasks, 1.96 s / sqrt(n), of this set of parameters. Query: query examples per class.
Inner steps and norm (batch norm statistics): at test. Size: of the file of the meta-parameters, float32. Recipe:
`metarun train` trains the same again with it; it is a file in `conf/recipe`.
"""


def page(zoo: Path) -> str:
    """Return the zoo's page, from the entries' files: a line for each entry and each kind of batch norm statistics.

    A result stands there after each number of inner steps that something is published for, or after the last one.
    """
    lines = []
    for name in names(zoo):
        result = result_file.read(zoo / name / RESULT)
        size = (checkpoint.folder(zoo / name) / checkpoint.TESTED).stat().st_size
        config, protocol = result.config, result.protocol
        recipe = cells.published(name)[0].recipe
        for score in result.scores:
            told = [
                r.steps
                for r in (recipe.reference if recipe else [])
                if r.norm in (None, score.norm) and r.ensemble == score.ensemble
            ]
            rows = [row for row in score.by_steps if row.steps in told] or score.by_steps[-1:]
            texts = (
                name,
                protocol["task"],
                f"{size / 1000:.0f} kB",
                "; ".join(row.estimate.text(result.metric) for row in rows),
                ", ".join(str(row.steps) for row in rows),
                score.estimate.tasks,
                config["eval.query"],
                score.label,
                protocol["split"],
                f"{result.selected.rule}, {result.selected.when(result.trained, result.stopped_early)}",
                f"`recipe={name} seed={result.seed}`",
            )
            lines.append("| " + " | ".join(map(str, texts)) + " |\n")
    return ABOVE + "".join(lines) + BELOW
