"""The meta-test of a run: measure test tasks, write ``result.json``, then draw figures and write the report."""

from __future__ import annotations

import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch

import metarun
from metarun.core.batch_norm import Mixing
from metarun.core.episode import TaskFigure
from metarun.core.intervals import Estimate
from metarun.core.meta import Meta
from metarun.datasets.base import Split
from metarun.errors import NotFinite, first_line
from metarun.results import page, result_file
from metarun.results.report import summary
from metarun.results.result import OfRecipe, Result, Score, Selected
from metarun.runs import checkpoint, extend, held_out, journal
from metarun.runs.checkpoint import Selection
from metarun.runs.evaluate import Ensemble, Measured, evaluate, predictions, watched, yardsticks
from metarun.runs.folder import RESULT
from metarun.runs.journal import Line
from metarun.runs.record import Record
from metarun.runs.setup import Setup

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tested:
    """Meta-parameters, and how they were chosen.

    Attributes:
        meta: the meta-parameters.
        step: meta-iterations after which they were taken.
        rule: the rule that chose them, in words.
        validation: their metric on validation; None if the rule does not use it.
        trained: meta-iterations that the run had done.
        stopped_early: whether it ended there, for ``eval.patience``.
        ensemble: the members of an ensemble that is tested beside them, best first; empty: there is none.
    """

    meta: Meta
    step: int
    rule: str
    validation: Estimate | None
    trained: int
    stopped_early: bool = False
    ensemble: list[Selection] = field(default_factory=list)

    @staticmethod
    def selected(chosen: Selection, trained: int, stopped_early: bool, asked: int | None) -> Tested:
        """Describe meta-parameters that were selected on validation.

        Args:
            chosen: these, with the next best ones.
            trained: meta-iterations that the run had done.
            stopped_early: whether it ended there, for ``eval.patience``.
            asked: ``eval.ensemble``. Where fewer were kept, since fewer validations had a figure, a warning tells.
        """
        validation = Estimate(chosen.value, chosen.ci95, None, chosen.diverged)
        members = [chosen, *chosen.others][:asked] if asked else []
        if asked and len(members) < asked:
            several = f"averaging the {len(members)} sets of parameters that validation found"
            told = several if members[1:] else "no ensemble: validation found one set of parameters"
            warnings.warn(f"eval.ensemble={asked}: {told}", stacklevel=2)
        members = members if members[1:] else []
        return Tested(chosen.meta, chosen.step, "best validation", validation, trained, stopped_early, members)


def test(setup: Setup, record: Record, tested: Tested, train_dir: Path, out: Path) -> Result:
    """Measure on the meta-test tasks and write ``out/result.json``, which makes the folder a finished run.

    All ranks measure, and the first one writes.

    Args:
        setup: the experiment's parts.
        record: the experiment as plain data.
        tested: the meta-parameters to test.
        train_dir: the run folder, for its journal.
        out: the folder to write to.
    """
    x, ranks = setup.experiment, setup.ranks
    began = time.perf_counter()

    def measure(meta: Meta | Ensemble, progress: str) -> list[Measured]:
        settings, shown = x.eval, progress if ranks.first else ""
        last_only = not settings.every_step
        return evaluate(setup, meta, Split.test, settings.tasks, settings.norm, last_only=last_only, progress=shown)

    measured = measure(tested.meta, "meta-test")
    members = tuple(member.meta for member in tested.ensemble)
    together = measure(members, f"ensemble of {len(members)}") if members else []
    known = yardsticks(setup, Split.test, x.eval.tasks, measured[-1].by_steps()[-1].beside)
    seconds = time.perf_counter() - began

    def write() -> Result:
        scores = [_score(setup, of_norm) for of_norm in measured]
        scores += [_score(setup, of_norm, len(members)) for of_norm in together]
        result = replace(_result(setup, record, tested, scores, train_dir, seconds), yardsticks=known)
        result_file.write(out / RESULT, result)
        return result

    return ranks.on_first(write)


def _result(
    setup: Setup, record: Record, tested: Tested, scores: list[Score], train_dir: Path, seconds: float
) -> Result:
    """Make the result of what was measured in ``seconds``, with its protocol."""
    x, trained = setup.experiment, tested.trained if tested.validation else tested.step
    last = "val" if tested.validation and trained == tested.step else "train"
    if checkpoint.tested_alone(train_dir):  # without its journal, so its own result tells how long it took
        known = result_file.read(train_dir / RESULT)
        training_seconds, speed = known.train_seconds, known.tasks_per_s
    else:
        lines = journal.read(train_dir, [(trained, last)])
        training_seconds = lines[-1]["seconds"] if lines else 0.0
        rates = [line["tasks_per_s"] for line in lines if line["split"] == "train" and line.get("tasks_per_s")]
        speed = sorted(rates)[len(rates) // 2] if rates else None
    selected = Selected(rule=tested.rule, step=tested.step, of=x.steps, validation=tested.validation)
    protocol = {**setup.protocol(), "selection": selected.text(trained, tested.stopped_early)}
    if members := tested.ensemble:
        steps = ", ".join(str(member.step) for member in members)
        how = "their outputs for a query, before any softmax, are averaged"
        protocol["ensemble"] = f"of the {len(members)} best on validation, meta-iterations {steps}; {how}"
    if record.extended:
        protocol["extended"] = extend.stamp(record.extended, x.steps)
    if x.eval.patience is not None:
        protocol["patience"] = f"{x.eval.patience} validations, one every {x.eval.every} meta-iterations"
    if of := record.trained_on:
        named = held_out.compared(of, held_out.facts(setup.tasks))
        how = "were compared by name" if named else "were not compared: they are not named in both"
        protocol["trained_on"] = f"{of.what}; classes of both data sets {how}"
    if record.start:
        protocol["init"] = record.start.stamp()
    for rate in tested.meta.step_sizes.values():
        if rate.ndim == 0:
            protocol["step_size"] = f"{rate.item():g}"
    if x.recipe:
        changed = f", changed: {', '.join(record.changed)}" if record.changed else ""
        protocol = {"recipe": f"{x.recipe.name}, budget {x.recipe.budget:g}{changed}", **protocol}
    return Result(
        names=record.names,
        recipe=OfRecipe(name=x.recipe.name, budget=x.recipe.budget, changed=record.changed) if x.recipe else None,
        seed=x.seed,
        metric=setup.problem.metric,
        protocol=protocol,
        scores=scores,
        selected=selected,
        trained=trained,
        config_hash=record.hash(),
        config=record.identity(),
        code=_code_version(),
        libraries={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "matplotlib": metadata.version("matplotlib"),
        },
        device=torch.cuda.get_device_name()
        if setup.device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        ranks=setup.ranks.world,
        train_seconds=training_seconds,
        test_seconds=round(seconds, 3),
        tasks_per_s=speed,
        stopped_early=tested.stopped_early,
    )


def _score(setup: Setup, measured: Measured, ensemble: int = 1) -> Score:
    norm = None if setup.mixing is Mixing.none else measured.norm
    return Score(norm=norm, estimate=measured.estimates[-1], by_steps=measured.by_steps(), ensemble=ensemble)


def _code_version() -> dict[str, str | None]:
    """Return version and, in a git checkout, commit; + after it marks changes that are not committed."""
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


def illustrate(setup: Setup, result: Result, meta: Meta, train_dir: Path, out: Path, command: list[str]) -> None:
    """Draw the figures of a result into ``out`` and, last, write ``report.html`` and ``report.md`` with them.

    Args:
        setup: the experiment's parts.
        result: the result.
        meta: the tested meta-parameters.
        train_dir: the run folder, for its journal.
        out: the folder to write to.
        command: the words that were typed after ``metarun``.
    """
    page.write(out, result, command, figures(setup, result, meta, journal.read(train_dir), out))
    print(summary(result))
    print(f"report: {out / page.NAME} and {page.WEB}")


def figures(setup: Setup, result: Result, meta: Meta, lines: list[Line], out: Path) -> dict[str, list[str]]:
    """Draw the figures of a result into ``out``. One that cannot be drawn is left out with a warning.

    Args:
        setup: the experiment's parts.
        result: the result.
        meta: the tested meta-parameters.
        lines: the run's journal.
        out: the folder to write to.

    Returns:
        Name of a file -> its panels as SVG, for those that a page shows in this way.
    """
    # late: they import matplotlib, half a second of a command's start
    from metarun.results import curves, svg, task_figures, training
    from metarun.results.axes import save

    panels = dict[str, list[str]]()

    def draw(name: str, make: Callable[[], Figure | None], apart: Callable[[], list[Figure]] | None = None) -> None:
        """Save a figure, and keep it as SVG where ``apart`` makes its panels."""
        drawn = False
        try:
            figure = make()
            if figure is not None:
                save(figure, out / name)
                drawn = True
                if apart is not None:
                    panels[name] = [svg.inline(panel, f"{Path(name).stem}{i}") for i, panel in enumerate(apart())]
        except Exception as error:  # of whatever kind: the numbers are right without it
            how = "not drawn as SVG" if drawn else "not drawn"
            warnings.warn(f"{name}: {how} ({first_line(error)})", stacklevel=2)

    def each(found: list[training.Panel]) -> list[Figure]:
        return [training.alone(panel) for panel in found]

    if lines:
        draw("curves.png", lambda: training.curves(result, lines), lambda: each(training.curve_panels(result, lines)))
    draw("outer.png", lambda: training.outer(result, lines), lambda: each(training.outer_panels(result, lines)))
    draw("steps.png", lambda: curves.steps(result), lambda: [curves.steps(result)])
    learned = {name: rate.cpu().numpy() for name, rate in meta.step_sizes.items() if rate.ndim > 0}
    if learned:
        draw("step_sizes.png", lambda: curves.step_sizes(learned), lambda: [curves.step_sizes(learned)])
    if setup.tasks.figure is not TaskFigure.none:
        draw(task_figures.NAMES[setup.tasks.figure], lambda: tasks_drawn(setup, meta))
    return panels


def tasks_drawn(setup: Setup, meta: Meta) -> Figure | None:
    """Draw the first three test tasks with their predictions, or with the episodes in them."""
    from metarun.results import task_figures

    x, few, kind = setup.experiment, range(3), setup.tasks.figure
    if setup.problem.collects:
        tasks = setup.tasks.sample(Split.test, x.eval.seed, few, x.eval_way, x.eval.shot, x.eval.query)
        return task_figures.episodes(kind, watched(setup, meta, tasks, task_figures.EPISODES))
    episodes = setup.tasks.sample(Split.test, x.eval.seed, few, x.eval_way, x.eval.shot, kind.queries(x.eval.query))
    outputs = predictions(setup, meta, episodes, x.eval.norm.members(setup.mixing)[0])
    names = setup.tasks.drawn(Split.test, x.eval.seed, few, x.eval_way)
    return task_figures.draw(kind, episodes, outputs, x.dataset.ink, names)


def require_figures(result: Result) -> None:
    """Warn of test tasks that diverged, or raise ``NotFinite`` if no metric can be stated because of them."""
    without = [score for score in result.scores if not score.estimate.known]
    some = without or [score for score in result.scores if score.estimate.diverged]
    if not some:
        return
    told = ", ".join(
        f"{score.estimate.diverged or 'some'} of {score.estimate.tasks} tasks (norm {score.label})" for score in some
    )
    message = (
        f"meta-test: {told} diverged within {result.protocol['test_steps']} inner steps (training took "
        f"{result.protocol['train_steps']}); fewer (algo.eval_inner_steps) or a smaller algo.inner_lr may help"
    )
    if without:
        raise NotFinite(f"{message}. There is no result to report")
    warnings.warn(f"{message}. They count as {result.metric.worst_in_words}", stacklevel=2)
