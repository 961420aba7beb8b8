"""The result of a run: test tasks measured, ``result.json`` first, then the pictures and the report of it."""

from __future__ import annotations

import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import torch
from matplotlib.figure import Figure

import metarun
from metarun.core.batch_norm import Mixing
from metarun.core.meta import Meta
from metarun.datasets.base import Split
from metarun.errors import NotFinite
from metarun.files import write_json
from metarun.results import curves, page, tables, task_figures
from metarun.results.result import Result, sealed
from metarun.runs import journal
from metarun.runs.evaluate import Score, evaluate, predictions
from metarun.runs.experiment import Bench
from metarun.runs.folder import RESULT, Record


@dataclass(frozen=True)
class Tested:
    """Meta-parameters, and how they were chosen."""

    meta: Meta
    step: int  # meta-iterations behind them
    rule: str
    validation: dict[str, Any] | None  # their figure there: mean, ci95, diverged
    trained: int  # meta-iterations that they were chosen from

    @staticmethod
    def selected(meta: Meta, chosen: dict[str, Any], trained: int) -> Tested:
        """For the fields of a ``checkpoint.Selection``."""
        validation = {"mean": chosen["value"], "ci95": chosen["ci95"], "diverged": chosen.get("diverged", 0)}
        return Tested(meta, chosen["step"], "best validation", validation, trained)


def test(bench: Bench, record: Record, tested: Tested, train_dir: Path, out: Path) -> Result:
    """Measure on the meta-test tasks and write ``out/result.json``: a folder with it is a finished run.

    All ranks measure, the first one writes.
    """
    x, ranks = bench.experiment, bench.ranks
    began = time.perf_counter()
    scores = evaluate(
        bench,
        tested.meta,
        Split.test,
        x.eval.tasks,
        x.eval.norm,
        last_only=not x.eval.every_step,
        progress="meta-test" if ranks.first else "",
    )
    seconds = time.perf_counter() - began

    def write() -> Result:
        result = sealed(_content(bench, record, tested, scores, train_dir, seconds))
        write_json(out / RESULT, result)
        return result

    return ranks.on_first(write)


def _content(
    bench: Bench, record: Record, tested: Tested, scores: list[Score], train_dir: Path, seconds: float
) -> Result:
    """What ``test`` measured in so many seconds, with its protocol."""
    x, lines = bench.experiment, journal.read(train_dir)
    trained = tested.trained if tested.validation else tested.step
    training = [line["seconds"] for line in lines]
    rates = [line["tasks_per_s"] for line in lines if line["split"] == "train" and line.get("tasks_per_s")]
    unfinished = f", of a run that had done {trained}" if trained < x.steps else ""
    selection = f"{tested.rule}, meta-iteration {tested.step} of {x.steps}{unfinished}"
    protocol = {**bench.protocol(), "selection": selection}
    for rate in tested.meta.step_sizes.values():
        if rate.ndim == 0:
            protocol["step_size"] = f"{rate.item():g}"
    if x.recipe:
        changed = f", changed: {', '.join(record.changed)}" if record.changed else ""
        protocol = {"recipe": f"{x.recipe.name}, budget {x.recipe.budget:g}{changed}", **protocol}
    return {
        "names": record.names,
        "recipe": x.recipe and {"name": x.recipe.name, "budget": x.recipe.budget, "changed": record.changed},
        "seed": x.seed,
        "metric": bench.problem.metric.name,
        "protocol": protocol,
        "scores": [_score_entry(bench, score) for score in scores],
        "selected": {"step": tested.step, "validation": tested.validation},
        "trained": trained,
        "config_hash": record.hash(),
        "config": record.identity(),
        "code": _code_version(),
        "libraries": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "device": torch.cuda.get_device_name()
        if bench.device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "ranks": bench.ranks.world,
        "train_seconds": training[-1] if training else 0.0,
        "test_seconds": round(seconds, 3),
        "tasks_per_s": sorted(rates)[len(rates) // 2] if rates else None,
    }


def _score_entry(bench: Bench, score: Score) -> dict[str, Any]:
    norm = "none (no batch norm)" if bench.mixing is Mixing.none else score.norm.name
    return {"norm": norm, **asdict(score.figures[-1]), "by_steps": score.by_steps()}


def _code_version() -> dict[str, str | None]:
    """Version, and the commit where the package runs from a git checkout (+ marks uncommitted changes)."""
    here = Path(metarun.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", "__init__.py") else None
    changed = commit and git("status", "--porcelain", "--", str(here))
    return {"version": metarun.__version__, "commit": f"{commit}{'+' if changed else ''}" if commit else None}


def illustrate(bench: Bench, result: Result, meta: Meta, train_dir: Path, out: Path) -> None:
    """Draw the pictures of a result into ``out`` and, last, write ``report.md`` around them.

    A picture that cannot be drawn is a warning: the numbers stand without it.
    """
    lines = journal.read(train_dir)

    def draw(name: str, make: Callable[[], Figure | None]) -> None:
        try:
            figure = make()
            if figure is not None:
                curves.save(figure, out / name)
        except Exception as error:  # whatever is wrong with a picture, it is only one
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"{name}: not drawn ({reason})", stacklevel=2)

    draw("curves.png", lambda: curves.curves(result, lines) if lines else None)
    draw("steps.png", lambda: curves.steps(result))
    learned = {name: rate.cpu().numpy() for name, rate in meta.step_sizes.items() if rate.ndim > 0}
    draw("step_sizes.png", lambda: curves.step_sizes(learned) if learned else None)
    x, few = bench.experiment, range(3)
    episodes = bench.tasks.sample(Split.test, x.eval.seed, few, x.way, x.eval.shot, x.eval.query)

    def of_tasks() -> Figure:
        shown = episodes
        if name == "sinusoid.png":  # a dense query set draws the whole curve; the support points stay
            shown = bench.tasks.sample(Split.test, x.eval.seed, few, x.way, x.eval.shot, 300)
        names = bench.tasks.drawn(Split.test, x.eval.seed, few, x.way)
        outputs = predictions(bench, meta, shown, x.eval.norm.members(bench.mixing)[0])
        return task_figures.draw(shown, outputs, x.dataset.ink, names)

    name = task_figures.kind(episodes)
    if name:
        draw(name, of_tasks)
    page.write(out, result)
    print(page.summary(result))
    print(f"report: {out / page.NAME}")


def require_figures(result: Result) -> None:
    """Warn of test tasks that diverged; raise ``NotFinite`` where there are so many that no figure can be given."""
    protocol, without = result["protocol"], [s for s in result["scores"] if not tables.has_figure(s)]
    some = without or [s for s in result["scores"] if s.get("diverged")]
    if not some:
        return
    told = ", ".join(f"{s.get('diverged', 'some')} of {s['tasks']} tasks (norm {s['norm']})" for s in some)
    message = (
        f"meta-test: {told} diverged within {protocol['test_steps']} inner steps (training took "
        f"{protocol['train_steps']}); fewer (algo.eval_inner_steps) or a smaller algo.inner_lr may help"
    )
    if without:
        raise NotFinite(f"{message}. No figure can be given")
    warnings.warn(f"{message}. They count as accuracy 0", stacklevel=2)
