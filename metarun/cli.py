"""The command line: ``metarun train | eval | report | check | bench``. The only file that knows ``hydra.main``."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

import metarun
from metarun import bench as speed
from metarun import check as gradients
from metarun import config, report
from metarun.errors import Interrupted, RankLost, UserError, did_you_mean
from metarun.experiment import Select
from metarun.files import write_atomic, write_json
from metarun.ranks import Ranks, current, joined
from metarun.run import evaluate_run, run
from metarun.run_folder import Record

USAGE = """\
metarun: one bench for gradient-based meta-learning

  metarun train    meta-train, test and report; any key of the configuration can be set
                     metarun train algo=fomaml dataset=omniglot
                     metarun train -m algo=maml,reptile seed=0,1,2      (a sweep)
  metarun eval     measure a run's checkpoint again, under another protocol
                     metarun eval run=outputs/RUN eval.norm=all eval.tasks=1000
  metarun report   one table (Markdown and CSV) of any number of runs
                     metarun report outputs/
  metarun check    are the meta-gradients right on this machine? A table, in two minutes
                     metarun check device=cpu
  metarun bench    tasks per second, memory and where the time goes, on generated data
                     metarun bench dataset=omniglot model=conv4_pool --compare reference

metarun COMMAND --help says more. --debug (or HYDRA_FULL_ERROR=1) shows the traceback of an error.
Exit status: 0 done, 1 a file that cannot be written, a wrong gradient or a rank that is gone, 2 input that cannot
be used, 3 numbers no longer finite, 130/143 stopped by a signal.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words or os.environ.get("HYDRA_FULL_ERROR") == "1"
    words = [word for word in words if word != "--debug"]
    try:
        with joined() as ranks:
            return _command(words, debug, ranks)
    except RankLost as error:
        print(f"metarun: error: {error}", file=sys.stderr)
        return 1


def _command(words: list[str], debug: bool, ranks: Ranks) -> int:
    """One command on one rank; its exit status. Tells of errors before the other ranks can notice that it is gone."""

    def tell(message: object) -> None:
        if ranks.tells:
            print(f"metarun: {message}", file=sys.stderr, flush=True)

    def warn(message: Warning | str, *_: object, **__: object) -> None:
        if ranks.first:
            print(f"metarun: warning: {message}", file=sys.stderr)

    warnings.showwarning = warn
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(USAGE, end="")
            return 0
        if words[0] == "--version":
            print(f"metarun {metarun.__version__}")
            return 0
        if words[0] not in COMMANDS:
            raise UserError(
                f"{words[0]}: no such command{did_you_mean(words[0], COMMANDS)}; commands: {', '.join(COMMANDS)}"
            )
        if ranks.world > 1 and words[0] in ("report", "check", "bench"):
            raise UserError(f"{words[0]}: runs in one process; start it without torchrun")
        return COMMANDS[words[0]](words[1:])
    except Interrupted as stop:
        tell(stop)
        return stop.status
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    except (UserError, OSError) as error:
        if debug and ranks.tells:
            traceback.print_exc()
        tell(f"error: {error}")
        return error.status if isinstance(error, UserError) else 1


def train(words: list[str]) -> int:
    """``metarun train``: checks every job first, then lets Hydra run one or all of them."""
    if "-h" in words or "--help" in words:
        print(train_help(), end="")
        return 0
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_args(words)
    if current().world > 1 and any("hydra/launcher" in word for word in flags.overrides):
        raise UserError("hydra/launcher: under torchrun all ranks run a sweep's jobs together, one after another")
    config.check(flags.overrides, flags.multirun, flags.config_dir)
    if flags.cfg == "job" and not flags.resolve:
        words = ["--resolve", *words]
    failed.clear()
    with ExitStack() as until_done:
        if flags.multirun and not current().first:  # Hydra writes a sweep's configuration, once
            words.append(f"hydra.sweep.dir={until_done.enter_context(TemporaryDirectory())}")
        until_done.callback(setattr, sys, "argv", sys.argv)
        sys.argv = ["metarun train", *words]
        hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="train")(_job)()
    if len(failed) > 1 and current().tells:
        print("\n".join(f"metarun: error: {error}" for error in failed[:-1]), file=sys.stderr)
    if failed:
        raise failed[-1]
    return 0


failed: list[UserError | OSError] = []  # errors of this process's jobs; one failed job does not end a sweep


def _job(cfg: DictConfig) -> None:
    """One job of Hydra's."""
    settings = HydraConfig.get()
    if current().world > 1 and any(isinstance(error, OSError) for error in failed):
        return  # an error of this rank's own, of which the others know nothing: it is out of step with them
    try:
        run(*config.from_hydra(cfg, settings.runtime.choices))
    except (UserError, OSError) as error:
        if not settings.launcher._target_.endswith("BasicLauncher"):
            raise  # the job has a process of its own, and Hydra brings its error back
        failed.append(error)


def _refuse(message: str) -> NoReturn:
    raise UserError(message)


def train_help() -> str:
    """Groups with their choices, then every key with its default and comment, from ``conf/``."""
    groups = "\n".join(f"  {group + '=':9}{' | '.join(config.choices(group))}" for group in config.GROUPS)
    text = (config.conf_dir() / "train.yaml").read_text()
    keys = text[text.index("\nway:") : text.index("\nhydra:")]
    return (
        "metarun train [KEY=VALUE ...] [-m] [--cfg job] [--debug]\n\n"
        f"Groups and their choices:\n{groups}\n\n"
        f"Keys, defaults and meaning:\n{textwrap.indent(keys.strip(), '  ')}\n\n"
        "Keys of a choice: metarun train algo=reptile --cfg job prints them all, resolved.\n"
        "  -m        sweep: metarun train -m algo=maml,fomaml seed=0,1 runs every combination\n"
        "  --cfg job print the resolved configuration and stop\n"
        "  --config-dir DIR  more choices of your own: DIR/algo/mine.yaml\n"
        "  --hydra-help      Hydra's own options\n"
    )


def _settings(words: list[str], wanted: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """``key=value`` words for the ``wanted`` keys (with their defaults), and the words that are left."""
    values, left = dict(wanted), []
    for word in words:
        key, _, value = word.partition("=")
        if key in wanted:
            values[key] = value
        else:
            left.append(word)
    return values, left


def evaluate(words: list[str]) -> int:
    """``metarun eval run=PATH``."""
    if "-h" in words or "--help" in words:
        print(
            "metarun eval run=PATH [checkpoint=best|last] [KEY=VALUE ...]\n\n"
            "Tests a run's checkpoint again; the result goes to a new folder in PATH/eval, training files stay as\n"
            "they are. Keys: eval.tasks, eval.norm (transductive, support, support_plus_one, all), eval.query,\n"
            "eval.seed, algo.eval_inner_steps, shot, data_root, device, and any other key that leaves the network\n"
            "as it was trained.\n\n  metarun eval run=outputs/RUN eval.norm=all eval.tasks=1000\n"
        )
        return 0
    values, overrides = _settings(words, {"run": "", "checkpoint": "best"})
    if not values["run"]:
        raise UserError("run: has no value, and needs one: metarun eval run=outputs/RUN")
    if values["checkpoint"] not in Select.__members__:
        raise UserError(f"checkpoint={values['checkpoint']}: must be one of {', '.join(Select.__members__)}")
    run_dir = Path(values["run"])
    record = Record.read(run_dir)
    if record is None:
        raise UserError(f"run={run_dir}: is no run folder (no config.json)")
    evaluate_run(run_dir, *config.reopen(record, overrides), Select[values["checkpoint"]])
    return 0


def table(words: list[str]) -> int:
    """``metarun report PATH ...``."""
    if "-h" in words or "--help" in words:
        print(
            "metarun report PATH [PATH ...] [out=DIR]\n\n"
            "One table of every finished run and evaluation under the paths, to the terminal and to table.md and\n"
            "table.csv in DIR (default: the first path's folder). Runs that differ only in seed are merged.\n\n"
            "  metarun report outputs/\n"
        )
        return 0
    values, paths = _settings(words, {"out": ""})
    if not paths:
        raise UserError("report needs at least one path: metarun report outputs/")
    rows = report.rows(report.find([Path(path) for path in paths]))
    first = Path(paths[0])
    out = Path(values["out"] or (first if first.is_dir() else first.parent))
    out.mkdir(parents=True, exist_ok=True)
    text = report.markdown(rows)
    write_atomic(out / "table.md", text.encode())
    write_atomic(out / "table.csv", report.comma_separated(rows).encode())
    print(text)
    print(f"written: {out / 'table.md'}, {out / 'table.csv'}")
    return 0


def check(words: list[str]) -> int:
    """``metarun check``; status 1 if a gradient is wrong."""
    if "-h" in words or "--help" in words:
        print(
            "metarun check [device=auto|cpu|cuda]\n\n"
            "Compares every method's meta-gradient with independent references in float64, on small networks with\n"
            "batch norm, on each way of computing it. Exit status 1 if one is wrong.\n"
        )
        return 0
    for word in words:
        if not word.startswith(("device=", "device.")):
            raise UserError(f"{word}: check takes device=auto|cpu|cuda and device.threads")
    algorithms = {}
    for name in config.choices("algo"):
        experiment, _ = config.compose([f"algo={name}", *words])
        algorithms[name] = experiment.algo
    device = experiment.device.resolve()
    lines = []
    print(f"meta-gradients on {device.type}, float64, allowed relative error {gradients.LIMIT:g}")
    for line in tqdm(gradients.rows(algorithms, device), desc="check", unit="row", disable=None, leave=False):
        lines.append(line)
    print(gradients.table(lines))
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
    words = list(words)
    flags = {"--compare": "", "--seconds": "10", "--json": ""}
    for flag in flags:
        if flag in words:
            at = words.index(flag)
            if at + 1 == len(words):
                raise UserError(f"{flag}: needs a value")
            flags[flag] = words[at + 1]
            del words[at : at + 2]
    if flags["--compare"] not in ("", "reference"):
        raise UserError(f"--compare {flags['--compare']}: must be reference")
    try:
        seconds = float(flags["--seconds"])
    except ValueError:
        raise UserError(f"--seconds {flags['--seconds']}: must be a number") from None
    experiment, _ = config.compose(words)
    result = speed.measure(experiment, seconds, compare=flags["--compare"] == "reference")
    print(speed.table(result))
    if flags["--json"]:
        write_json(Path(flags["--json"]), {"command": ["metarun", "bench", *words], **result})
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "report": table,
    "check": check,
    "bench": bench,
}
