"""Results as a run would write them, of numbers that a test chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate
from metarun.core.metric import ACCURACY, Metric
from metarun.results.result import AfterSteps, Result, Score, Selected

RETURN = Metric(
    name="return", words="return", unit=" points", larger_is_better=True, scale=1.0, digits=1,
    bounds=(float("-inf"), float("inf")),
)  # fmt: skip


def score(norm: Norm | None, estimates: list[Estimate]) -> Score:
    """After 0, 1, ... inner steps."""
    rows = [AfterSteps(steps=k, estimate=estimate, loss=0.5) for k, estimate in enumerate(estimates)]
    return Score(norm=norm, estimate=estimates[-1], by_steps=rows)


def result(
    seed: int = 0, mean: float = 0.9, ci95: float = 0.01, diverged: int = 0, metric: Metric = ACCURACY, **config: Any
) -> Result:
    """A finished run that was tested on 600 tasks; ``config``: settings of it."""
    return Result(
        names={"algo": "maml", "dataset": "omniglot"},
        recipe=None,
        seed=seed,
        metric=metric,
        protocol={"task": "5-way 1-shot", "split": "maml 1100/100/423", "train_steps": 1, "test_steps": 3},
        scores=[score(Norm.transductive, [Estimate(mean, ci95, 600, diverged)])],
        selected=Selected(rule="last step", step=100, of=100, validation=None),
        trained=100,
        config_hash="0",
        config={"way": 5, "seed": seed, **config},
        code={"version": "0", "commit": None},
        libraries={"python": "3"},
        device="cpu, 1 threads",
        ranks=1,
        train_seconds=1.0,
        test_seconds=1.0,
        tasks_per_s=None,
    )


def told(of: Result, **facts: Any) -> Result:
    """The same with other facts in its protocol."""
    return replace(of, protocol={**of.protocol, **facts})
