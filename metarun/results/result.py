"""What a run measured, as ``result.json`` holds it."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate
from metarun.core.metric import Metric

NO_NORM = "none (no batch norm)"
# all that older files say of a selection
SENTENCE = re.compile(r"(.+), meta-iteration \d+ of (\d+)(?:, of .*)?")


def norm_in_words(norm: Norm | None) -> str:
    """How a file and a table call the statistics of batch norm; None is a network without."""
    return norm.name if norm else NO_NORM


@dataclass(frozen=True, kw_only=True)
class AfterSteps:
    """The test metric after a number of inner steps.

    loss: mean over tasks, nan where it is not finite. beside: name -> mean over tasks, of what the tasks' problem
    measures beside the metric.
    """

    steps: int
    estimate: Estimate
    loss: float
    beside: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        of = self.estimate
        row = {"steps": self.steps, "mean": of.mean, "ci95": of.ci95, "diverged": of.diverged, "loss": self.loss}
        return {**row, **({"beside": self.beside} if self.beside else {})}

    @staticmethod
    def from_json(content: dict[str, Any], tasks: int) -> AfterSteps:
        return AfterSteps(
            steps=_whole(content["steps"]),
            estimate=_estimate(content, tasks),
            loss=_number(content["loss"]),
            beside={_text(name): _number(value) for name, value in content.get("beside", {}).items()},
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """The test metric under one kind of batch norm statistics; norm: None for a network without batch norm."""

    norm: Norm | None
    estimate: Estimate  # after the last inner step
    by_steps: list[AfterSteps]

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.by_steps]
        return {"norm": norm_in_words(self.norm), **asdict(self.estimate), "by_steps": rows}

    @staticmethod
    def from_json(content: dict[str, Any]) -> Score:
        norm, tasks = content["norm"], _whole(content["tasks"])
        return Score(
            norm=None if norm == NO_NORM else Norm[norm],
            estimate=_estimate(content, tasks),
            by_steps=[AfterSteps.from_json(row, tasks) for row in content["by_steps"]],
        )


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The parameters that were tested: those after ``step`` of ``of`` meta-iterations, chosen by a ``rule``.

    validation: the metric there, where the rule is about it.
    """

    rule: str
    step: int
    of: int
    validation: Estimate | None

    def when(self, trained: int) -> str:
        """At which meta-iteration, in words; trained: how many the run had done."""
        unfinished = f", of a run that had done {trained}" if trained < self.of else ""
        return f"meta-iteration {self.step} of {self.of}{unfinished}"

    def text(self, trained: int) -> str:
        """The rule and the meta-iteration."""
        return f"{self.rule}, {self.when(trained)}"

    def to_json(self) -> dict[str, Any]:
        of = self.validation
        validation = of and {"mean": of.mean, "ci95": of.ci95, "diverged": of.diverged}
        return {"step": self.step, "validation": validation, "rule": self.rule, "of": self.of}

    @staticmethod
    def from_json(content: dict[str, Any], sentence: str) -> Selected:
        """sentence: the protocol's, of which older files have rule and meta-iterations alone."""
        validation = content["validation"]
        if "rule" in content:
            rule, of = content["rule"], content["of"]
        else:
            told = SENTENCE.fullmatch(sentence)
            if told is None:
                raise ValueError(sentence)
            rule, of = told[1], int(told[2])
        return Selected(
            rule=_text(rule),
            step=_whole(content["step"]),
            of=_whole(of),
            validation=None if validation is None else _estimate(validation, None),
        )


@dataclass(frozen=True, kw_only=True)
class OfRecipe:
    """The recipe that a run followed. budget: share of the published training length. changed: settings not its own."""

    name: str
    budget: float
    changed: list[str]

    @staticmethod
    def from_json(content: dict[str, Any]) -> OfRecipe:
        return OfRecipe(
            name=_text(content["name"]), budget=_number(content["budget"]), changed=[*content.get("changed", [])]
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run measured on the test tasks, and all that the numbers depend on."""

    names: dict[str, str]  # group -> option
    recipe: OfRecipe | None
    seed: int
    metric: Metric
    protocol: dict[str, Any]  # facts for the page; "task", "split", "train_steps", "test_steps" in all
    scores: list[Score]
    selected: Selected
    trained: int  # meta-iterations that the run had done
    config_hash: str
    config: dict[str, Any]  # dotted key -> value
    code: dict[str, str | None]  # version, commit
    libraries: dict[str, str]
    device: str
    ranks: int
    train_seconds: float
    test_seconds: float
    tasks_per_s: float | None
    yardsticks: dict[str, Estimate] = field(default_factory=dict)  # of known solutions on the same tasks

    @property
    def unfinished(self) -> bool:
        """Whether its training was not done when it was tested."""
        return self.trained < self.selected.of

    def to_json(self) -> dict[str, Any]:
        """The content of ``result.json``, without its seal."""
        return {
            "names": self.names,
            "recipe": self.recipe and asdict(self.recipe),
            "seed": self.seed,
            "metric": self.metric.name,
            "metric_facts": self.metric.facts(),
            "protocol": self.protocol,
            "scores": [score.to_json() for score in self.scores],
            "selected": self.selected.to_json(),
            "trained": self.trained,
            "config_hash": self.config_hash,
            "config": self.config,
            "code": self.code,
            "libraries": self.libraries,
            "device": self.device,
            "ranks": self.ranks,
            "train_seconds": self.train_seconds,
            "test_seconds": self.test_seconds,
            "tasks_per_s": self.tasks_per_s,
            **({"yardsticks": {name: asdict(of) for name, of in self.yardsticks.items()}} if self.yardsticks else {}),
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> Result:
        """From the content of a file, of today or older. Raises one of ``UNFIT`` where it is no result."""
        protocol, recipe, rate = content["protocol"], content.get("recipe"), content["tasks_per_s"]
        selected = Selected.from_json(content["selected"], protocol.get("selection", ""))
        for key in ("task", "split"):
            _text(protocol[key])
        for key in ("train_steps", "test_steps"):
            _whole(protocol[key])
        return Result(
            names={group: _text(name) for group, name in content["names"].items()},
            recipe=OfRecipe.from_json(recipe) if recipe else None,
            seed=_whole(content["seed"]),
            metric=Metric.of(content["metric"], content.get("metric_facts")),
            protocol=protocol,
            scores=[Score.from_json(score) for score in content["scores"]],
            selected=selected,
            # older files know of a validation, which is for the whole training, or of the last step
            trained=_whole(content.get("trained", selected.of if selected.validation else selected.step)),
            config_hash=_text(content["config_hash"]),
            config=dict(content["config"].items()),
            code={key: content["code"][key] for key in ("version", "commit")},
            libraries=dict(content["libraries"].items()),
            device=_text(content["device"]),
            ranks=_whole(content["ranks"]),
            train_seconds=_number(content["train_seconds"]),
            test_seconds=_number(content["test_seconds"]),
            tasks_per_s=None if rate is None else _number(rate),
            yardsticks={
                _text(name): _estimate(of, _whole(of["tasks"])) for name, of in content.get("yardsticks", {}).items()
            },
        )


UNFIT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what reading raises for what is no result


def _estimate(content: dict[str, Any], tasks: int | None) -> Estimate:
    mean, ci95 = _number(content["mean"]), _number(content["ci95"])
    return Estimate(mean, ci95, tasks, _whole(content.get("diverged", 0)))  # older files count none


def _number(value: Any) -> float:
    """A number; JSON has null for one that is not finite."""
    return math.nan if value is None else value + 0.0


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(value)
    return value
