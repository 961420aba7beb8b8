"""Meta-training: in each step sample tasks, average their meta-gradients, take the outer step, log, validate, save."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.acting import ENV_STEPS
from metarun.core.batch_norm import Norm
from metarun.core.meta import Meta
from metarun.core.metric import Metric
from metarun.core.outer_step import Facts
from metarun.core.problem import Metrics
from metarun.datasets.base import Split
from metarun.engine.over_tasks import count, in_parts
from metarun.errors import Interrupted, NotFinite
from metarun.progress import progress_bar
from metarun.results.result import AfterSteps
from metarun.runs import checkpoint
from metarun.runs.checkpoint import Selection, TrainState
from metarun.runs.evaluate import Evaluator
from metarun.runs.journal import Journal, Line, Listener
from metarun.runs.owner import Owner
from metarun.runs.setup import Setup
from metarun.runs.signals import StopSignals

COUNTS = (ENV_STEPS,)  # metrics that count what a task took, of which lines also have a rate
RATES = ("tasks_per_s", *(f"{name}_per_s" for name in COUNTS))
NUMBERS_AT_ONCE = 2**16  # input numbers of the tasks that are sampled in one call


def train(setup: Setup, run_dir: Path, stop: StopSignals, training: dict[str, Any] | None = None) -> TrainState:
    """Meta-train until ``steps``, resuming from the checkpoint of ``run_dir`` if there is one.

    The same settings give the same bits, however often the run was killed and resumed.

    Args:
        setup: the experiment's parts.
        run_dir: the run folder.
        stop: the signals received; training stops after the step in which one arrives.
        training: settings that affect the training, dotted key -> value. Checkpoints store them, so that a checkpoint
            of another training is recognised.

    Returns:
        The state after the last step.

    Raises:
        UserError: the checkpoint does not fit.
        NotFinite: the loss, the meta-gradient or a meta-parameter is not finite.
        Interrupted: ``stop`` received a signal; the state is saved.
    """
    x, ranks = setup.experiment, setup.ranks
    state = ranks.on_first(lambda: checkpoint.load(run_dir, partial(Owner.of, setup, training)))
    state = state and state.to(setup.device)
    meta = state.meta if state else setup.first_meta()
    outer = x.algo.outer_step(meta)
    if state:
        outer.load_state_dict(state.optimizer)
    step, selection = (state.step, state.selection) if state else (0, None)
    window = Window(setup, run_dir)
    batches = meta_batches(setup, step)
    meta_gradient, questions = setup.meta_gradient(), setup.questions()
    score = None
    if x.eval.every > 0 and setup.tasks.has(Split.val):
        score = validator(setup, times=x.steps // x.eval.every)

    bars = progress_bar(desc="meta-train", unit="step", total=x.steps, initial=step, leave=True, show=ranks.first)
    validated = (step if step == x.steps else step - step % x.eval.every) if score else 0
    with closing(Journal(run_dir, step, validated, keep=ranks.first)) as journal, bars as bar:
        journal.subscribe(beside(bar, setup.problem.metric))
        while step < x.steps and not (score and x.eval.exhausted(step, selection.step if selection else 0)):
            progress, tasks = step / x.steps, setup.collected(meta, next(batches))
            grads, metrics = meta_gradient(meta, tasks, progress)
            signal = ranks.highest(stop.received or 0)  # read once: a later signal waits for the next step
            grads = ranks.mean(grads, count(tasks), x.meta_batch)
            facts = outer.step(grads, progress, questions.about(tasks, progress))
            step += 1
            window.add(metrics, facts)
            bar.update()

            ended = step == x.steps
            validating = score is not None and (ended or step % x.eval.every == 0)
            saving = ended or step % x.checkpoint_every == 0 or signal > 0
            if step % x.log_every == 0 or saving or (validating and x.eval.patience):
                journal.write(step, "train", {**window.flush(step), **outer.rates()})
            if score and validating:
                began = time.perf_counter()
                candidate, rows = validate(setup, meta, score)
                window.since += time.perf_counter() - began
                journal.write(step, "val", _for_journal(setup.problem.metric, rows))
                figure = rows[-1].estimate
                if figure.known:
                    kept = tree.combine(torch.clone, candidate)
                    new = Selection(step, figure.mean, figure.ci95, kept, figure.diverged)
                    most = x.eval.ensemble or 1
                    selection = selection.and_later(new, setup.problem.metric, most) if selection else new
                ended = ended or x.eval.exhausted(step, selection.step if selection else 0)
            if saving or ended:
                window.require_finite(step, meta)
                now = TrainState(step, meta, outer.state_dict(), selection)
                ranks.on_first(partial(checkpoint.save, run_dir, now, training))
            if ended:
                signal = ranks.highest(stop.received or 0)  # there is no next step
            if signal:
                message = f"stopped after meta-iteration {step} of {x.steps}, saved; the same command resumes the run"
                raise Interrupted(message, signal)
    return TrainState(step, meta, outer.state_dict(), selection)


def _for_journal(metric: Metric, rows: list[AfterSteps]) -> Line:
    """Return the journal's values of a validation: the metric after the last inner step, and before where known."""
    last = rows[-1].estimate
    before = {metric.before: rows[0].estimate.mean} if len(rows) > 1 else {}
    measured = {metric.name: last.mean, "ci95": last.ci95, "tasks": last.tasks, "diverged": last.diverged}
    return {**measured, **before, **rows[-1].beside}


def beside(bar: Any, metric: Metric) -> Listener:
    """Return a journal listener that shows the latest train and val lines beside a progress bar.

    Where the metric was measured before adapting too, both are shown, and no loss: it is that of data that were drawn
    anew, which says little.
    """
    shown: dict[str, str] = {}

    def show(line: Line) -> None:
        before = f"{line[metric.before]:.3g} -> " if metric.before in line else ""
        of = f"{before}{line[metric.name]:.3g}" if metric.name in line else ""
        if line["split"] == "train":
            loss = () if before else ("loss",)
            known = {name: f"{line[name]:.3g}" for name in (*loss, metric.name, *RATES) if name in line}
            shown.update({**known, metric.name: of} if of else known)
        else:
            some = f" ({line['diverged']} of {line['tasks']} tasks diverged)" if line["diverged"] else ""
            shown[f"val {metric.name}"] = f"{of} ± {line['ci95']:.2g}{some}"
        bar.set_postfix(shown, refresh=line["split"] == "val")

    return show


def meta_batches(setup: Setup, step: int) -> Iterator[Any]:
    """Yield this rank's share of the meta-batches of meta-iterations ``step``, ``step`` + 1, ...

    Several small meta-batches are sampled in one call. The tasks are the same, with less Python between them.
    """
    x, ranks = setup.experiment, setup.ranks
    numbers = x.meta_batch * x.inputs_of_a_task(setup.tasks)
    at_once = max(1, NUMBERS_AT_ONCE // numbers) if ranks.world == 1 else 1
    support, query = x.training_shots()
    while True:
        indices = ranks.share(range(step * x.meta_batch, (step + at_once) * x.meta_batch))
        drawn = setup.tasks.sample(Split.train, x.seed, indices, x.way, support, query)
        yield from in_parts(drawn, len(indices) // at_once)
        step += at_once


def validator(setup: Setup, times: int) -> Evaluator:
    """Make the evaluator for validation, which always uses the same tasks.

    With ``eval.norm=all`` it uses transductive statistics. It measures after the last inner step alone, unless tasks
    act: then the others cost nothing.

    Args:
        setup: the experiment's parts.
        times: expected validations; tracing is chosen from it.
    """
    settings = setup.experiment.eval
    norm = Norm.transductive if settings.norm is Norm.all else settings.norm
    times *= len(setup.experiment.algo.candidates(setup.first_meta()))
    return Evaluator(setup, settings.val_tasks, norm, last_only=not setup.problem.collects, times=times)


def validate(setup: Setup, meta: Meta, score: Evaluator) -> tuple[Meta, list[AfterSteps]]:
    """Measure the method's candidates on the validation tasks.

    Returns:
        The best candidate and what was measured of it. Candidates without a finite mean come last.
    """

    def rank(row: tuple[Meta, list[AfterSteps]]) -> tuple[bool, float]:
        last = row[1][-1].estimate
        return last.known, setup.problem.metric.goodness(last.mean)

    measured = []
    for candidate in setup.experiment.algo.candidates(meta):
        (of_candidate,) = score(candidate, Split.val)
        measured.append((candidate, of_candidate.by_steps()))
    return max(measured, key=rank)


def tuned(setup: Setup, meta: Meta) -> Meta:
    """Choose the best of the method's candidates on validation, for methods that tune a setting.

    Returns:
        The best candidate, or the only one. ``meta`` itself where several are left without a validation task, or, with
        a warning, where no candidate has a finite mean.
    """
    first, *others = setup.experiment.algo.candidates(meta)
    if not others:
        return first
    if not setup.tasks.has(Split.val):
        return meta
    candidate, rows = validate(setup, meta, validator(setup, times=1))
    if not rows[-1].estimate.known:
        warnings.warn("tuning on validation: tasks diverge with every candidate; nothing is tuned", stacklevel=2)
    return candidate if rows[-1].estimate.known else meta


class Window:
    """Metrics of the steps since the last log line. They stay on the device, so that no step waits for them.

    Args:
        setup: the experiment's parts.
        run_dir: the run folder, for messages.
    """

    def __init__(self, setup: Setup, run_dir: Path):
        self.meta_batch, self.run_dir, self.ranks = setup.experiment.meta_batch, run_dir, setup.ranks
        self._clear()

    def _clear(self) -> None:
        self.rows: list[tuple[Metrics, Facts]] = []
        self.since = time.perf_counter()  # validation time is added to it

    def add(self, metrics: Metrics, facts: Facts) -> None:
        """Add one step: the metrics of this rank's tasks, each [T], and scalar facts of the outer step."""
        self.rows.append((metrics, facts))

    def flush(self, step: int) -> dict[str, float]:
        """Return the means over the window and all ranks, and start a new window.

        Args:
            step: meta-iterations done.

        Raises:
            NotFinite: a loss or a meta-gradient is not finite.
        """
        mine = {name: torch.stack([metrics[name] for metrics, _ in self.rows]).cpu() for name in self.rows[0][0]}
        tables = self.ranks.gather([mine])
        table = {name: torch.cat([of_rank[name] for of_rank in tables], 1) for name in mine}
        facts = {name: torch.stack([of[name] for _, of in self.rows]).cpu() for name in self.rows[0][1]}
        finite = table["loss"].isfinite().all(1) & facts["grad_norm"].isfinite()
        if not finite.all():
            bad = int(finite.logical_not().nonzero()[0])
            self.ranks.on_first(lambda: self._report(step - len(self.rows) + bad, table["loss"][bad]))
        seconds = time.perf_counter() - self.since
        rate = len(self.rows) * self.meta_batch / seconds
        self._clear()
        means = {name: values.mean().item() for name, values in table.items()}
        of_steps = {name: values.mean().item() for name, values in facts.items()}
        rates = {f"{name}_per_s": round(means[name] * rate, 1) for name in COUNTS if name in means}
        return {**means, **of_steps, "tasks_per_s": round(rate, 2), **rates}

    def require_finite(self, step: int, meta: Meta) -> None:
        """Raise ``NotFinite``, before saving, where a meta-parameter is not finite after ``step`` meta-iterations."""
        if not all(bool(value.isfinite().all()) for value in tree.leaves(meta)):
            self.ranks.on_first(lambda: self._raise(step - 1, "what the step made of the meta-parameters"))

    def _report(self, step: int, losses: Tensor) -> None:
        """Raise ``NotFinite`` for meta-iteration ``step`` (from 0) with per-task losses [T]."""
        tasks = [step * self.meta_batch + int(i) for i in losses.isfinite().logical_not().nonzero()[:, 0]]
        self._raise(step, f"the loss of meta-training tasks {tasks}" if tasks else "the meta-gradient")

    def _raise(self, step: int, where: str) -> NoReturn:
        first = step * self.meta_batch
        tried = (checkpoint.folder(self.run_dir) / name for name in (checkpoint.LAST, checkpoint.PREVIOUS))
        good = next((str(path) for path in tried if path.exists()), "none was written yet")
        raise NotFinite(
            f"meta-iteration {step + 1} (tasks {first}..{first + self.meta_batch - 1}): {where} is not finite; "
            f"last good checkpoint: {good}. A smaller algo.inner_lr or algo.outer_lr, or algo.clip_norm, may help"
        )
