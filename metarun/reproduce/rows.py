"""Rows of a published table: each published result with ours and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate, over_seeds, with_seeds
from metarun.core.metric import Metric
from metarun.reproduce.cells import published, results
from metarun.reproduce.verdict import Verdict
from metarun.results.result import Result
from metarun.results.tables import mean_beside
from metarun.runs.experiment import Experiment
from metarun.runs.recipe import Reference


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published result with ours; a number that does not exist is nan.

    Attributes:
        cell: data set and cell of the recipe.
        norm: batch norm statistics; None for a network without batch norm, or before a run shows which it has.
        ensemble: sets of parameters of one training whose outputs were averaged.
        steps: inner steps at test.
        tasks: test tasks of one run.
        query: query examples per class at test.
        split: how classes were split; empty if there is no run.
        rule: what chose the tested parameters; empty if there is no run.
        budget: share of the published training length, 0..1.
        seeds: number of runs.
        metric: the metric.
        ours: mean over seeds, its interval, and the tasks of all runs.
        ci95_of: what our interval is over: ``tasks``, or ``seeds and tasks`` from three seeds on; empty without a run.
        ci95_tasks: half-width of the 95 % interval over tasks of one run.
        sd_seeds: standard deviation of the runs' means between seeds.
        published: the published mean.
        published_ci: the published ±.
        published_ci_of: what the published ± means.
        verdict: comparison of the two.
        source: where the published result is from.
        confirmed: whether it was read in the original, and not quoted by others.
        beside: name -> what was measured beside the metric, mean over seeds.
    """

    cell: str
    norm: Norm | None
    ensemble: int
    steps: int
    tasks: int
    query: int
    split: str
    rule: str
    budget: float
    seeds: int
    metric: Metric
    ours: Estimate
    ci95_of: str
    ci95_tasks: float
    sd_seeds: float
    published: float
    published_ci: float
    published_ci_of: str
    verdict: Verdict
    source: str
    confirmed: bool
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def selection(self) -> str:
        """The rule that chose the tested parameters, and whether they are an ensemble."""
        return ", ".join(filter(None, [f"ensemble of {self.ensemble}" if self.ensemble > 1 else "", self.rule]))

    @property
    def difference(self) -> float:
        """Our mean minus the published one."""
        return self.ours.mean - self.published

    @property
    def norm_in_words(self) -> str:
        """The norm for a table; empty if it is not known, because there is no run."""
        return self.norm.name if self.norm else "none" if self.seeds else ""

    def cells(self) -> dict[str, Any]:
        """Return column -> value, with numbers unrounded."""
        return {
            "cell": self.cell,
            "norm": self.norm_in_words,
            "steps": self.steps,
            "tasks": self.tasks,
            "query": self.query,
            "split": self.split,
            "selection": self.selection,
            "budget": self.budget,
            "seeds": self.seeds,
            "metric": self.metric.name,
            "mean": self.ours.mean,
            "ci95": self.ours.ci95,
            "ci95_of": self.ci95_of,
            "ci95_tasks": self.ci95_tasks,
            "sd_seeds": self.sd_seeds,
            "diverged": self.ours.diverged,
            "published": self.published,
            "published_ci": self.published_ci,
            "published_ci_of": self.published_ci_of,
            "difference": self.difference,
            "verdict": self.verdict.value,
            "source": self.source,
            "confirmed": self.confirmed,
            **self.beside,
        }


def rows(out: Path, cell: str) -> list[Row]:
    """Make a row for each published result of a cell, from the runs with the largest budget, merged over seeds.

    Raises:
        UserError: a result file was changed, or does not fit its recipe.
    """
    experiment, _ = published(cell)
    assert experiment.recipe is not None
    done = [(result, result.recipe.budget) for result in results(out, cell) if result.recipe]
    budget = max((of for _, of in done), default=math.nan)
    runs = [result for result, of in done if of == budget]
    found = []
    for ensemble in (1, *([experiment.eval.ensemble] if experiment.eval.ensemble else [])):
        published_so = [reference for reference in experiment.recipe.reference if reference.ensemble == ensemble]
        references: list[Reference | None] = [*published_so] or [None]
        found += [_row(cell, experiment, runs, budget, reference, ensemble) for reference in references]
    return found


def _row(
    cell: str, x: Experiment, runs: list[Result], budget: float, reference: Reference | None, ensemble: int
) -> Row:
    runs = [run for run in runs if any(score.ensemble == ensemble for score in run.scores)]  # may have kept too few
    steps = reference.steps if reference else x.algo.eval_inner_steps
    asked = reference.norm if reference else None
    of_kind = [[score for score in run.scores if score.ensemble == ensemble] for run in runs]
    scores = [next(score for score in scores if asked in (None, score.norm)) for scores in of_kind]
    found = [next(row for row in score.by_steps if row.steps == steps) for score in scores]
    of_tasks, spread = over_seeds([row.estimate for row in found])
    ours, of_seeds = with_seeds([row.estimate for row in found])
    metric = runs[0].metric if runs else x.dataset.metric
    if not runs:
        verdict = Verdict.not_run
    elif reference is None:
        verdict = Verdict.no_number
    else:
        verdict = Verdict.of(reference, ours.mean, ours.ci95, budget, metric.larger_is_better)
    return Row(
        cell=cell,
        norm=scores[0].norm if scores else asked,
        ensemble=ensemble,
        steps=steps,
        tasks=x.eval.tasks,
        query=x.eval.query,
        split=runs[0].protocol["split"] if runs else "",
        rule=runs[0].selected.rule if runs else "",
        budget=budget if runs else math.nan,
        seeds=len(runs),
        metric=metric,
        ours=ours,
        ci95_of=("seeds and tasks" if of_seeds else "tasks") if runs else "",
        ci95_tasks=of_tasks.ci95,
        sd_seeds=spread,
        published=reference.value if reference else math.nan,
        published_ci=(reference and reference.interval) or math.nan,
        published_ci_of=reference.interval_of if reference else "",
        verdict=verdict,
        source=reference.source if reference else "",
        confirmed=bool(reference and reference.confirmed),
        beside=mean_beside(found),
    )
