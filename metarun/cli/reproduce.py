"""``metarun reproduce``: run the recipes of published tables, and compare our results with the published ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from metarun.cli import train
from metarun.cli.parser import Parser, require_folder
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, require


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "reproduce",
        usage="metarun reproduce TABLE [seed=0,1] [budget=1] [out=DIR] [zoo=DIR] [--list] [--report] [KEY=VALUE ...]",
        description="Runs the recipes of conf/recipe that are not done yet, each in out/results/CELL_sSEED, resuming\n"
        "those that were interrupted, then writes RESULTS.md, .csv and .png to out: ours, the published number and a\n"
        "verdict. KEY=VALUE: device, data_root and Hydra's own, such as hydra/launcher; every other key belongs to\n"
        "the recipe.",
        more=_tables,
    )
    command.setting("seed", "0,1", "a run for each (0)", default="0")
    command.setting("budget", "SHARE", "share of the published training length; the result says so (1)", default="1")
    command.setting("out", "DIR", "where to work and write (outputs/reproduce)", default="outputs/reproduce")
    command.setting("zoo", "DIR", "keep the meta-parameters of finished cells of the first seed in DIR, a zoo")
    command.add_argument(
        "--list",
        action="store_true",
        help="list the cells: how long meta-training takes on this machine (measured), and what is done",
    )
    command.add_argument("--report", action="store_true", help="write the table of finished runs, without running any")


def _tables() -> str:
    from metarun.config.registry import tables

    return (
        f"\nTABLE: {', '.join(tables())}, all, or a single cell such as omniglot/maml_5w1s.\n\n"
        "  metarun reproduce sinusoid\n  metarun reproduce omniglot/maml_5w1s seed=0,1,2 budget=0.1\n"
    )


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Run what is missing as sweeps of ``metarun train``, then write the table. Returns the exit status."""
    tables_named = [word for word in given.words if "=" not in word]
    extra = [word for word in given.words if "=" in word]
    for word in extra:
        if not word.startswith(("device=", "device.", "data_root=", "hydra")):
            raise UserError(
                f"{word}: reproduce takes seed, budget, out, zoo, device, data_root, hydra/..., --list and --report; a "
                "recipe's own keys are fixed (metarun train recipe=CELL KEY=VALUE runs a changed one)"
            )
    try:
        seeds = sorted({int(seed) for seed in given.seed.split(",")})
    except ValueError:
        raise UserError(f"seed={given.seed}: must be whole numbers, such as 0 or 0,1,2") from None
    try:
        budget = float(given.budget)
    except ValueError:
        budget = 0.0  # refused in the next line
    require(0 < budget <= 1, "budget", given.budget, "a number > 0 and <= 1")
    from metarun.files import user_path
    from metarun.reproduce import cells, table, zoo

    if len(tables_named) > 1 or not (tables_named or given.report):
        raise UserError(f"reproduce needs one table: {', '.join(cells.tables())}, all, or a single cell")
    chosen = cells.cells(tables_named[0] if tables_named else "all")
    out = user_path(given.out)
    require_folder(out)
    if given.zoo is not None:
        require_folder(user_path(given.zoo), "zoo")
    if given.list:
        print(cells.listing(out, chosen, seeds, budget, extra))
        return 0
    if given.report and not any(cells.finished(out, cell) for cell in cells.cells("all")):
        raise UserError(f"out={out}: holds no finished run of a recipe; without --report the recipes are run")
    failure = None
    if not given.report:
        for cell in chosen:
            cells.results(out, cell)  # report damaged finished runs before the others start
        for missing, of_seeds in cells.missing(out, chosen, seeds, budget).items():
            try:
                train.start([*cells.sweep(out, missing, of_seeds, budget), *extra], multirun=True, ranks=ranks)
            except (UserError, OSError) as error:
                failure = error  # still write the table of what was run
        if failure and not any(cells.finished(out, cell) for cell in chosen):
            raise failure
    page = f"{out / table.NAME}.md"
    print(f"{table.write(out, chosen).shown(table.KEPT, page)}\n\n{table.LEGEND}")
    print(f"written: {page}, .csv and .png")
    if given.zoo is not None:
        kept = zoo.keep(out, chosen, seeds[0], user_path(given.zoo))
        print(f"kept in {given.zoo}: {', '.join(kept) or 'nothing, since no cell of these is finished'}")
    if failure:
        raise failure
    return 0
