"""The commands besides ``train``: what their words mean, and what they print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metarun import config
from metarun.config.overrides import as_typed
from metarun.engine.ranks import current
from metarun.errors import UserError, did_you_mean, require
from metarun.files import user_path, write_json, write_text
from metarun.progress import progress_bar
from metarun.reproduce import cells as published
from metarun.reproduce import table as verdicts
from metarun.results import curves, tables
from metarun.results.axes import save
from metarun.results.result_file import find
from metarun.runs import checkpoint
from metarun.runs.experiment import Experiment, Select
from metarun.runs.folder import CONFIG, Record
from metarun.runs.load import evaluate_run
from metarun.verify import check as gradients
from metarun.verify import speed


def _settings(words: list[str], wanted: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """``key=value`` words for the ``wanted`` keys (with their defaults), and the words that are left."""
    values, left = dict(wanted), []
    for word in words:
        key, _, value = word.partition("=")
        if key in wanted:
            if not value.strip():
                raise UserError(f"{word}: has no value (an unset variable of the shell?)")
            values[key] = value
        else:
            left.append(word)
    return values, left


def _require_folder(out: Path) -> None:
    """Raise ``UserError`` where a file is in the place of the folder ``out``, or of one above it."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    require(there.is_dir(), "out", out, "a folder" if there == out else f"a folder, and {there} is a file")


def evaluate(words: list[str]) -> int:
    """``metarun eval run=PATH``."""
    if "-h" in words or "--help" in words:
        print(
            "metarun eval run=PATH [checkpoint=best|last] [KEY=VALUE ...]\n\n"
            "Tests a run's checkpoint again, the one that the run was tested on unless another is named; the result\n"
            "goes to a new folder in PATH/eval, training files stay as they are. Keys: eval.tasks, eval.norm\n"
            "(transductive, support, support_plus_one, all), eval.shot, eval.query, eval.seed,\n"
            "algo.eval_inner_steps, data_root, device, and any other key that a test reads and that leaves the\n"
            "network as it was trained.\n\n"
            "  metarun eval run=outputs/RUN eval.norm=all eval.tasks=1000\n"
        )
        return 0
    values, overrides = _settings(words, {"run": "", "checkpoint": ""})
    if not values["run"]:
        raise UserError("run: has no value, and needs one: metarun eval run=outputs/RUN")
    which, known = values["checkpoint"], Select.__members__
    if which and which not in known:
        raise UserError(f"checkpoint={which}: must be one of {', '.join(known)}{did_you_mean(which, known)}")
    overrides = as_typed(overrides)
    run_dir = user_path(values["run"])
    record = Record.read(run_dir)
    if record is None:
        raise UserError(f"run={run_dir}: is no run folder (no config.json)")
    if which and checkpoint.selected(run_dir):  # else both are the last parameters, as the run has them
        record = record.tested_on(which)
    experiment, record = _reopened(run_dir, record, overrides)
    evaluate_run(run_dir, experiment, record, experiment.eval.select, current())
    return 0


def _reopened(run_dir: Path, record: Record, overrides: list[str]) -> tuple[Experiment, Record]:
    """As ``config.reopen``; what is wrong without the overrides too is said of the file that it is in."""
    try:
        return config.reopen(record, overrides)
    except UserError:
        try:
            config.reopen(record, [])
        except UserError as error:
            raise UserError(f"{run_dir / CONFIG}: {error}") from None
        raise


def table(words: list[str]) -> int:
    """``metarun report PATH ...``."""
    if "-h" in words or "--help" in words:
        print(
            "metarun report PATH [PATH ...] [out=DIR]\n\n"
            "One table of every finished run and evaluation under the paths, to the terminal and to table.md and\n"
            "table.csv in DIR (default: the first path's folder), and as a plot against inner steps, table.png.\n"
            "Runs that differ only in seed are merged.\n\n"
            "  metarun report outputs/\n"
        )
        return 0
    values, paths = _settings(words, {"out": ""})
    if not paths:
        raise UserError("report needs at least one path: metarun report outputs/")
    if not all(path.strip() for path in paths):
        raise UserError("report: a path is empty (an unset variable of the shell?)")
    results = find([user_path(path) for path in paths])
    rows = tables.rows(results)
    first = user_path(paths[0])
    out = user_path(values["out"] or (first if first.is_dir() else first.parent))
    _require_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    text = tables.markdown(rows)
    write_text(out / "table.md", text)
    write_text(out / "table.csv", tables.comma_separated(rows))
    save(curves.comparison(tables.by_steps(results)), out / "table.png")
    print(text)
    print(f"written: {out / 'table.md'}, .csv and .png")
    return 0


def check(words: list[str]) -> int:
    """``metarun check``; status 1 if a gradient is wrong."""
    if "-h" in words or "--help" in words:
        print(
            "metarun check [algo=NAME,NAME] [device=auto|cpu|cuda]\n\n"
            "Compares the meta-gradient of every method (or of those named) with independent references in float64,\n"
            "on small networks with batch norm, on each way of computing it. Exit status 1 if one is wrong.\n"
        )
        return 0
    values, words = _settings(words, {"algo": ",".join(config.choices("algo"))})
    for word in words:
        if not word.startswith(("device=", "device.")):
            raise UserError(f"{word}: check takes algo=NAME,NAME, device=auto|cpu|cuda and device.threads")
    algorithms = {}
    for name in values["algo"].split(","):
        experiment, _ = config.compose([f"algo={name}", *words])
        algorithms[name] = experiment.algo
    left_out = [f"{name}: not checked, {why}" for name, why in gradients.unchecked(algorithms).items()]
    if len(left_out) == len(algorithms):
        raise UserError("; ".join(left_out))
    lines = []
    with experiment.device.applied() as device:
        print(f"meta-gradients on {device.type}, float64, allowed relative error {gradients.LIMIT:g}")
        for line in progress_bar(gradients.rows(algorithms, device), desc="check", unit="row"):
            lines.append(line)
    print("\n".join([gradients.table(lines), *left_out]))
    wrong = sum(not line.right for line in lines)
    print(f"{len(lines) - wrong} right, {wrong} wrong")
    return 1 if wrong else 0


def bench(words: list[str]) -> int:
    """``metarun bench``."""
    if "-h" in words or "--help" in words:
        print(
            "metarun bench [KEY=VALUE ...] [--compare reference] [--seconds S] [--json FILE]\n\n"
            "Meta-steps of a configuration, as metarun train would run them, on random data of the same shape: median\n"
            "throughput with its range, peak memory, the share of time in convolutions and matrix products.\n"
            "--compare reference takes turns with the plain PyTorch loop of benchmarks/reference_loop.py (MAML and\n"
            "FOMAML) and prints the ratio. steps decides what compiling is worth, as in training.\n\n"
            "  metarun bench dataset=omniglot model=conv4_pool query=15 meta_batch=32 --compare reference\n"
            "  metarun bench dataset=sinusoid device.compile=false --seconds 5\n"
        )
        return 0
    flags = {"--compare": "", "--seconds": "10", "--json": ""}
    apart = [word.split("=", 1) if word.partition("=")[0] in flags else [word] for word in words]
    words = [word for of_one in apart for word in of_one]
    for flag in flags:
        if flag in words:
            at = words.index(flag)
            if at + 1 == len(words):
                raise UserError(f"{flag}: needs a value")
            if not words[at + 1].strip():
                raise UserError(f"{flag}: has no value (an unset variable of the shell?)")
            flags[flag] = words[at + 1]
            del words[at : at + 2]
    if flags["--compare"] not in ("", "reference"):
        raise UserError(f"--compare {flags['--compare']}: must be reference")
    try:
        seconds = float(flags["--seconds"])
    except ValueError:
        raise UserError(f"--seconds {flags['--seconds']}: must be a number") from None
    require(0 < seconds < 1e6, "--seconds", flags["--seconds"], "> 0, and less than a million")
    file = user_path(flags["--json"]) if flags["--json"] else None
    # before the measuring, which takes a while; a device such as /dev/stdout would be put aside for a file
    fit = file is None or (file.parent.is_dir() and (file.is_file() or not file.exists()))
    require(fit, "--json", flags["--json"], "a plain file, in a folder that is there")
    experiment, _ = config.compose(words)
    result = speed.measure(experiment, seconds, compare=flags["--compare"] == "reference")
    print(speed.table(result))
    if file is not None:
        write_json(file, {"command": ["metarun", "bench", *words], **result})
    return 0


def reproduce(words: list[str], train: Callable[[list[str]], int]) -> int:
    """``metarun reproduce TABLE``: runs what is missing as sweeps of ``train``, then writes the table."""
    if "-h" in words or "--help" in words:
        print(
            "metarun reproduce TABLE [seed=0,1] [budget=1] [out=outputs/reproduce] [--list] [--report] [KEY=VALUE]\n\n"
            f"TABLE: {', '.join(published.tables())}, all, or a single cell such as omniglot/maml_5w1s.\n\n"
            "Runs the recipes of conf/recipe that are not done yet, each in out/results/CELL_sSEED, going on where\n"
            "one was interrupted, then writes RESULTS.md, .csv and .png to out: ours, the published number and a\n"
            "verdict. budget: share of the published training length; the result says so. KEY=VALUE: device,\n"
            "data_root and Hydra's own, such as hydra/launcher; every other key belongs to the recipe.\n"
            "  --list    the cells, how long their meta-training takes here (measured), and what is done\n"
            "  --report  write the table from what is there\n\n"
            "  metarun reproduce sinusoid\n  metarun reproduce omniglot/maml_5w1s seed=0,1,2 budget=0.1\n"
        )
        return 0
    flags = {flag for flag in ("--list", "--report") if flag in words}
    values, left = _settings(
        [word for word in words if word not in flags], {"seed": "0", "budget": "1", "out": "outputs/reproduce"}
    )
    names = [word for word in left if "=" not in word and not word.startswith("-")]
    extra = [word for word in left if word not in names]
    for word in extra:
        if not word.startswith(("device=", "device.", "data_root=", "hydra")):
            raise UserError(
                f"{word}: reproduce takes {', '.join(values)}, device, data_root, hydra/..., --list and --report; a "
                "recipe's own keys are fixed (metarun train recipe=CELL KEY=VALUE runs a changed one)"
            )
    if len(names) > 1 or not (names or "--report" in flags):
        raise UserError(f"reproduce needs one table: {', '.join(published.tables())}, all, or a single cell")
    cells = published.cells(names[0] if names else "all")
    try:
        seeds = sorted({int(seed) for seed in values["seed"].split(",")})
    except ValueError:
        raise UserError(f"seed={values['seed']}: must be whole numbers, such as 0 or 0,1,2") from None
    try:
        budget = float(values["budget"])
    except ValueError:
        budget = 0.0  # refused in the next line, like any other that cannot be
    require(0 < budget <= 1, "budget", values["budget"], "a number > 0 and <= 1")
    out = user_path(values["out"])
    _require_folder(out)
    if "--list" in flags:
        print(published.listing(out, cells, seeds, budget, extra))
        return 0
    if "--report" in flags and not any(published.finished(out, cell) for cell in published.cells("all")):
        raise UserError(f"out={out}: holds no finished run of a recipe; without --report they are run")
    failure: UserError | OSError | None = None
    if not flags:
        for cell in cells:
            published.results(out, cell)  # what is wrong with finished ones shows before work starts
        for missing, of_seeds in published.missing(out, cells, seeds, budget).items():
            try:
                train(published.sweep(out, missing, of_seeds, budget) + extra)
            except (UserError, OSError) as error:
                failure = error  # the table shows what could be run
        if failure and not any(published.finished(out, cell) for cell in cells):
            raise failure
    print(verdicts.write(out, cells))
    print(f"written: {out / verdicts.NAME}.md, .csv and .png")
    if failure:
        raise failure
    return 0
