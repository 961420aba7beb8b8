"""Tables of any number of results, and the lines of a plot of them."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate, over_seeds
from metarun.core.metric import Metric
from metarun.results.grid import Grid
from metarun.results.labels import labels, telling, title, written
from metarun.results.result import AfterSteps, Result, Score, norm_in_words

COLUMNS = (
    "algo",
    "dataset",
    "task",
    "split",
    "norm",
    "steps",
    "tasks",
    "seeds",
    "metric",
    "mean",
    "ci95_tasks",
    "sd_seeds",
    "diverged",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table: a configuration under one kind of batch norm statistics, merged over its seeds.

    Attributes:
        algo: option of the method, marked for an ensemble, and if the training was not complete.
        dataset: option of the data set.
        task: kind of task, for example ``5-way 1-shot``.
        split: how classes were split, and the data's checksum where one configuration ran on different data.
        norm: batch norm statistics; None for a network without batch norm.
        ensemble: sets of parameters whose outputs were averaged.
        steps: inner steps at test.
        tasks: test tasks of one run.
        seeds: number of runs.
        metric: the metric.
        estimate: mean over seeds, the interval over tasks of one run, and the tasks of all runs.
        sd_seeds: standard deviation of the runs' means between seeds; nan for one seed.
        beside: name -> what was measured beside the metric after the last inner step, mean over seeds.
        settings: title -> value of each setting in which the rows differ.
        runs: the results that were merged, one for each seed.
    """

    algo: str
    dataset: str
    task: str
    split: str
    norm: Norm | None
    ensemble: int
    steps: int
    tasks: int
    seeds: int
    metric: Metric
    estimate: Estimate
    sd_seeds: float
    beside: dict[str, float]
    settings: dict[str, str]
    runs: list[Result]

    def cells(self) -> dict[str, Any]:
        """Return column -> value, with numbers unrounded."""
        of = self.estimate
        cells = {**vars(self), "norm": norm_in_words(self.norm), "metric": self.metric.name}
        cells |= {"mean": of.mean, "ci95_tasks": of.ci95, "diverged": of.diverged}
        return {**{column: cells[column] for column in COLUMNS}, **self.beside, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a plot: a metric against inner steps.

    Attributes:
        panel: what lines must share to be compared: the tasks and, with batch norm, its statistics.
        label: name in the legend.
        metric: the metric.
        steps: numbers of inner steps.
        estimates: the metric after each of them.
        yardsticks: name -> the metric of a known solution on the same tasks.
    """

    panel: str
    label: str
    metric: Metric
    steps: list[int]
    estimates: list[Estimate]
    yardsticks: dict[str, Estimate] = field(default_factory=dict)

    @property
    def goodness(self) -> float:
        """Sort key: the metric after the last inner step; larger is better."""
        return self.metric.goodness(self.estimates[-1].mean)

    @staticmethod
    def of(score: Score, metric: Metric, yardsticks: dict[str, Estimate]) -> Line:
        """Make the line of one run's score, labelled with its norm."""
        rows = score.by_steps
        steps, estimates = [row.steps for row in rows], [row.estimate for row in rows]
        return Line(
            panel="",
            label=score.label,
            metric=metric,
            steps=steps,
            estimates=estimates,
            yardsticks=yardsticks,
        )


Run = tuple[Result, Score]


def _runs(results: list[Result]) -> list[list[Run]]:
    """Group the runs by (configuration, norm), one run for each seed."""
    merged: dict[str, dict[int, Run]] = {}
    for result in _apart(_apart(results, "pool_sha256"), "data_sha256"):
        rest = _settings(result)
        for score in result.scores:
            tested = [result.protocol["split"], score.label, score.estimate.tasks, _unfinished(result)]
            identity = json.dumps([rest, *tested], sort_keys=True)
            merged.setdefault(identity, {})[result.seed] = result, score
    return [list(by_seed.values()) for by_seed in merged.values()]


def _apart(results: list[Result], fact: str) -> list[Result]:
    """Return the results; where one configuration ran on different data, the checksum is added to the split's name."""
    met: dict[str, set[str]] = {}
    keys = [json.dumps({**result.config, "seed": None}, sort_keys=True) for result in results]
    for key, result in zip(keys, results, strict=True):
        met.setdefault(key, set()).update(filter(None, [result.protocol.get(fact)]))

    def told(result: Result) -> Result:
        protocol = result.protocol
        split = f"{protocol['split']}, {fact} {protocol.get(fact)}"
        return replace(result, protocol={**protocol, "split": split})

    return [told(result) if len(met[key]) > 1 else result for key, result in zip(keys, results, strict=True)]


def _unfinished(result: Result) -> str:
    """Return a note if a run was tested before the end of its training, else an empty text."""
    words = f" (unfinished: {result.trained} of {result.selected.of} meta-iterations)"
    return words if result.unfinished else ""


def _method(result: Result, score: Score) -> str:
    """Return the option of the method, with what makes its result another than that of a whole training's best."""
    several = f" (ensemble of {score.ensemble})" if score.ensemble > 1 else ""
    return result.names["algo"] + several + _unfinished(result)


def _settings(result: Result) -> dict[str, Any]:
    """Return the configuration without the seed."""
    return {key: value for key, value in result.config.items() if key != "seed"}


def rows(results: list[Result]) -> list[Row]:
    """Make one row for each (configuration, norm), the best first; runs that differ only in seed are merged."""
    table, configs = [], []
    for runs in _runs(results):
        result, score = runs[0]
        estimate, spread = over_seeds([of.estimate for _, of in runs])
        table.append(
            Row(
                algo=_method(result, score),
                dataset=result.names["dataset"],
                task=result.protocol["task"],
                split=result.protocol["split"],
                norm=score.norm,
                ensemble=score.ensemble,
                steps=result.protocol["test_steps"],
                tasks=score.estimate.tasks or 0,
                seeds=len(runs),
                metric=result.metric,
                estimate=estimate,
                sd_seeds=spread,
                beside=mean_beside([of.by_steps[-1] for _, of in runs]),
                settings={},
                runs=[of for of, _ in runs],
            )
        )
        configs.append(_settings(result))
    keys = telling(configs, [row.cells() for row in table])
    titles = {key: f"setting {key}" if title(key) in COLUMNS else title(key) for key in keys}
    for i, config in enumerate(configs):
        told = {titles[key]: written(config[key]) if key in config else "" for key in keys}
        table[i] = replace(table[i], settings=told)

    def order(row: Row) -> tuple[Any, ...]:
        return row.dataset, row.task, row.norm is None, norm_in_words(row.norm), -row.metric.goodness(row.estimate.mean)

    return sorted(table, key=order)


def mean_beside(rows: list[AfterSteps]) -> dict[str, float]:
    """Average what was measured beside the metric over the rows of one configuration's runs, by name."""
    names = rows[0].beside if rows else ()
    return {name: sum(row.beside.get(name, math.nan) for row in rows) / len(rows) for name in names}


def by_steps(results: list[Result]) -> list[Line]:
    """Make one line for each (configuration, norm): the metric against inner steps, merged over seeds.

    Its label is the method, with the settings in which it differs from others of the same name.
    """
    merged = _runs(results)
    norms: dict[str, list[Norm]] = {}  # tasks -> norms of the networks with batch norm
    for (result, score), *_ in merged:
        norms.setdefault(_tasks(result, score), []).extend([score.norm] if score.norm else [])
    panels, methods, lines = [], [], []
    for runs in merged:
        result, score = runs[0]
        beside = norms[_tasks(result, score)]  # a network without batch norm may be compared with any
        panels.append(f"{_tasks(result, score)}, norm {norm_in_words(score.norm or (beside[0] if beside else None))}")
        methods.append(_method(result, score))
    for i, runs in enumerate(merged):
        result, score = runs[0]
        same = [j for j in range(len(merged)) if (panels[j], methods[j]) == (panels[i], methods[i])]
        label = labels([_settings(merged[j][0][0]) for j in same])[same.index(i)]
        words = f"{methods[i]} {label}".strip()
        of_steps = zip(*(of.by_steps for _, of in runs), strict=True)
        lines.append(
            Line(
                panel=panels[i],
                label=textwrap.fill(words, 60, break_long_words=False, break_on_hyphens=False),
                metric=result.metric,
                steps=[row.steps for row in score.by_steps],
                estimates=[over_seeds([row.estimate for row in rows])[0] for rows in of_steps],
                yardsticks={
                    name: over_seeds([of.yardsticks[name] for of, _ in runs if name in of.yardsticks])[0]
                    for name in result.yardsticks
                },
            )
        )
    return lines


def _tasks(result: Result, score: Score) -> str:
    """Describe the tasks of a score."""
    task = f"{result.names['dataset']}, {result.protocol['task']}"
    return f"{task}, {result.protocol['split']}, {score.estimate.tasks} tasks"


NOTE = "± is the 95 % interval over test tasks, 1.96 s / sqrt(n), of one run."
RESULT = "result ± interval over tasks"


def grid(table: list[Row]) -> Grid:
    """Make the table that people read, with rounded numbers."""
    some_diverged = any(row.estimate.diverged for row in table)
    more = list(table[0].settings) if table else []
    beside = named_beside(row.beside for row in table)
    titles = [*COLUMNS[:7], RESULT, *beside, "seeds", "sd between seeds"]
    titles += ["diverged"] if some_diverged else []
    cells = []
    for row in table:
        of, known = row.estimate, row.cells()
        texts = [known[column] for column in COLUMNS[:7]]
        texts += [row.metric.amount(of.mean, of.ci95)]
        texts += [f"{row.beside[name]:.4g}" if name in row.beside else "" for name in beside]
        texts.append(row.seeds)
        texts.append("" if math.isnan(row.sd_seeds) else row.metric.number(row.sd_seeds))
        if some_diverged:
            texts.append(f"{of.diverged} of {of.tasks}")
        cells.append([str(text) for text in [*texts, *(known[name] for name in more)]])
    return Grid([*titles, *more], cells)


def markdown(table: list[Row]) -> str:
    """Format the rows as a Markdown table, with rounded numbers."""
    return f"{grid(table).markdown()}\n\n{NOTE}\n"


def named_beside(rows: Iterable[dict[str, float]]) -> list[str]:
    """List the names of what was measured beside the metric in any row."""
    return list(dict.fromkeys(name for row in rows for name in row))


def comma_separated(table: list[Row]) -> str:
    """Format the rows as CSV, with unrounded numbers."""
    buffer = io.StringIO()
    more = list(table[0].settings) if table else []
    writer = csv.DictWriter(buffer, [*COLUMNS, *named_beside(row.beside for row in table), *more], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells() for row in table)
    return buffer.getvalue()
