"""The final numbers of a run by name, for programs that show runs, and the facts that these depend on."""

from __future__ import annotations

import math

from metarun.core.intervals import Estimate
from metarun.results.result import Result


def final(result: Result) -> tuple[dict[str, float], dict[str, str]]:
    """Return what a result says, under names without spaces.

    Args:
        result: the result.

    Returns:
        ``test/METRIC/NORM``, without NORM for a network that has no batch norm, with ``/ensemble`` behind it for that
        of an ensemble; the same with ``_ci95`` and ``_diverged`` -> a finite number; and the same with ``_in_words``,
        ``protocol/...`` and others -> text.
    """
    numbers: dict[str, float] = {"test/tested_step": result.selected.step}
    facts = {f"protocol/{key}": str(value) for key, value in result.protocol.items()}
    for score in result.scores:
        parts = [score.norm.name] if score.norm else [], ["ensemble"] if score.ensemble > 1 else []
        name = "/".join(["test", result.metric.name, *parts[0], *parts[1]])
        numbers |= _numbers(name, score.estimate)
        facts[f"{name}_in_words"] = (
            f"{score.estimate.text(result.metric)}, 95 % interval over {score.estimate.tasks} tasks"
        )
    if result.selected.validation:
        numbers |= _numbers(f"val/{result.metric.name}_selected", result.selected.validation)
    facts |= {f"names/{group}": name for group, name in result.names.items()}
    facts |= {"metarun": str(result.code["version"]), "config_hash": result.config_hash, "device": result.device}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}, facts


def _numbers(name: str, of: Estimate) -> dict[str, float]:
    return {name: of.mean, f"{name}_ci95": of.ci95, f"{name}_diverged": of.diverged}
