"""Results of a run, as ``result.json`` stores them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metarun.core.batch_norm import Norm
from metarun.core.intervals import Estimate
from metarun.core.metric import Metric
from metarun.results.json_values import number, text, whole

NO_NORM = "none (no batch norm)"
# in older files, the only description of a selection
SENTENCE = re.compile(r"(.+), meta-iteration \d+ of (\d+)(?:, of .*)?")


def norm_in_words(norm: Norm | None) -> str:
    """Return the name of batch norm statistics in files and tables; None: the network has no batch norm."""
    return norm.name if norm else NO_NORM


@dataclass(frozen=True, kw_only=True)
class AfterSteps:
    """The test metric after a number of inner steps.

    Attributes:
        steps: number of inner steps.
        estimate: the metric over test tasks.
        loss: mean query loss over tasks; nan if it is not finite.
        beside: name -> mean over tasks of what the problem measures beside the metric.
    """

    steps: int
    estimate: Estimate
    loss: float
    beside: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content for a file."""
        of = self.estimate
        row = {"steps": self.steps, "mean": of.mean, "ci95": of.ci95, "diverged": of.diverged, "loss": self.loss}
        return {**row, **({"beside": self.beside} if self.beside else {})}

    @staticmethod
    def from_json(content: dict[str, Any], tasks: int) -> AfterSteps:
        """Convert the content of a file; ``tasks`` is the number of test tasks. Raises one of ``UNFIT``."""
        return AfterSteps(
            steps=whole(content["steps"]),
            estimate=_estimate(content, tasks),
            loss=number(content["loss"]),
            beside={text(name): number(value) for name, value in content.get("beside", {}).items()},
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """The test metric under one kind of batch norm statistics.

    Attributes:
        norm: the statistics; None for a network without batch norm.
        estimate: the metric after the last inner step.
        by_steps: the metric after each number of inner steps that was measured.
        ensemble: sets of parameters whose outputs were averaged.
    """

    norm: Norm | None
    estimate: Estimate
    by_steps: list[AfterSteps]
    ensemble: int = 1

    @property
    def label(self) -> str:
        """The norm in words, and that the parameters were an ensemble."""
        return norm_in_words(self.norm) + (f", ensemble of {self.ensemble}" if self.ensemble > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Return the content for a file."""
        rows = [row.to_json() for row in self.by_steps]
        several = {"ensemble": self.ensemble} if self.ensemble > 1 else {}
        return {"norm": norm_in_words(self.norm), **several, **asdict(self.estimate), "by_steps": rows}

    @staticmethod
    def from_json(content: dict[str, Any]) -> Score:
        """Convert the content of a file. Raises one of ``UNFIT``."""
        norm, tasks = content["norm"], whole(content["tasks"])
        return Score(
            norm=None if norm == NO_NORM else Norm[norm],
            estimate=_estimate(content, tasks),
            by_steps=[AfterSteps.from_json(row, tasks) for row in content["by_steps"]],
            ensemble=whole(content.get("ensemble", 1)),
        )


@dataclass(frozen=True, kw_only=True)
class Selected:
    """How the tested parameters were chosen.

    Attributes:
        rule: the rule, in words.
        step: meta-iterations after which they were taken.
        of: meta-iterations of the whole training.
        validation: their metric on validation; None if the rule does not use it.
    """

    rule: str
    step: int
    of: int
    validation: Estimate | None

    def when(self, trained: int, stopped_early: bool = False) -> str:
        """Return the meta-iteration in words, for a run that had done ``trained`` or stopped early after them."""
        did = "stopped early after" if stopped_early else "had done"
        shorter = f", of a run that {did} {trained}" if trained < self.of else ""
        return f"meta-iteration {self.step} of {self.of}{shorter}"

    def text(self, trained: int, stopped_early: bool = False) -> str:
        """Return the rule and the meta-iteration in words, as ``when`` does."""
        return f"{self.rule}, {self.when(trained, stopped_early)}"

    def to_json(self) -> dict[str, Any]:
        """Return the content for a file."""
        of = self.validation
        validation = of and {"mean": of.mean, "ci95": of.ci95, "diverged": of.diverged}
        return {"step": self.step, "validation": validation, "rule": self.rule, "of": self.of}

    @staticmethod
    def from_json(content: dict[str, Any], sentence: str) -> Selected:
        """Convert the content of a file. Raises one of ``UNFIT``.

        Args:
            content: the content.
            sentence: the protocol's text about the selection; older files state rule and meta-iterations only there.
        """
        validation = content["validation"]
        if "rule" in content:
            rule, of = content["rule"], content["of"]
        else:
            told = SENTENCE.fullmatch(sentence)
            if told is None:
                raise ValueError(sentence)
            rule, of = told[1], int(told[2])
        return Selected(
            rule=text(rule),
            step=whole(content["step"]),
            of=whole(of),
            validation=None if validation is None else _estimate(validation, None),
        )


@dataclass(frozen=True, kw_only=True)
class OfRecipe:
    """The recipe that a run followed.

    Attributes:
        name: data set and cell, for example ``omniglot/maml_5w1s``.
        budget: share of the published training length, 0..1.
        changed: settings that differ from the recipe's, as ``key=value``.
    """

    name: str
    budget: float
    changed: list[str]

    @staticmethod
    def from_json(content: dict[str, Any]) -> OfRecipe:
        """Convert the content of a file. Raises one of ``UNFIT``."""
        return OfRecipe(
            name=text(content["name"]), budget=number(content["budget"]), changed=[*content.get("changed", [])]
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run measured on the test tasks, and everything that the numbers depend on.

    Attributes:
        names: group -> option.
        recipe: the recipe that the run followed; None: it followed none.
        seed: the run's seed.
        metric: the metric of the tasks.
        protocol: facts for the page; ``task``, ``split``, ``train_steps`` and ``test_steps`` are always there.
        scores: one for each kind of batch norm statistics, and then the same of an ensemble, where there is one.
        selected: the parameters that were tested.
        trained: meta-iterations that the run had done.
        config_hash: hash of ``config``.
        config: dotted key -> value of every setting that affects the result.
        code: ``version`` and ``commit``; None where it is not known.
        libraries: library -> version.
        device: name of the processor.
        ranks: number of processes.
        train_seconds: wall time of meta-training.
        test_seconds: wall time of the test.
        tasks_per_s: median over the journal's training lines; None if there are none.
        yardsticks: name -> the metric of a known solution on the same tasks.
        folder: where it was read from; None where it was not.
        stopped_early: whether meta-training ended before its last step, for ``eval.patience``.
    """

    names: dict[str, str]
    recipe: OfRecipe | None
    seed: int
    metric: Metric
    protocol: dict[str, Any]
    scores: list[Score]
    selected: Selected
    trained: int
    config_hash: str
    config: dict[str, Any]
    code: dict[str, str | None]
    libraries: dict[str, str]
    device: str
    ranks: int
    train_seconds: float
    test_seconds: float
    tasks_per_s: float | None
    yardsticks: dict[str, Estimate] = field(default_factory=dict)
    stopped_early: bool = False
    folder: Path | None = field(default=None, compare=False, repr=False)

    @property
    def unfinished(self) -> bool:
        """Whether the run was tested before the end of its training."""
        return self.trained < self.selected.of and not self.stopped_early

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``result.json`` without its checksum."""
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
            **({"stopped_early": True} if self.stopped_early else {}),
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> Result:
        """Convert the content of a file of this version or an older one. Raises one of ``UNFIT`` if it is no result."""
        protocol, recipe, rate = content["protocol"], content.get("recipe"), content["tasks_per_s"]
        selected = Selected.from_json(content["selected"], protocol.get("selection", ""))
        for key in ("task", "split"):
            text(protocol[key])
        for key in ("train_steps", "test_steps"):
            whole(protocol[key])
        return Result(
            names={group: text(name) for group, name in content["names"].items()},
            recipe=OfRecipe.from_json(recipe) if recipe else None,
            seed=whole(content["seed"]),
            metric=Metric.of(content["metric"], content.get("metric_facts")),
            protocol=protocol,
            scores=[Score.from_json(score) for score in content["scores"]],
            selected=selected,
            # older files lack it: with validation the training was complete, without it the last parameters were tested
            trained=whole(content.get("trained", selected.of if selected.validation else selected.step)),
            config_hash=text(content["config_hash"]),
            config=dict(content["config"].items()),
            code={key: content["code"][key] for key in ("version", "commit")},
            libraries=dict(content["libraries"].items()),
            device=text(content["device"]),
            ranks=whole(content["ranks"]),
            train_seconds=number(content["train_seconds"]),
            test_seconds=number(content["test_seconds"]),
            tasks_per_s=None if rate is None else number(rate),
            yardsticks={
                text(name): _estimate(of, whole(of["tasks"])) for name, of in content.get("yardsticks", {}).items()
            },
            stopped_early=content.get("stopped_early", False) is True,
        )


# what reading raises for what is no result; OverflowError: a whole number that no float holds
UNFIT = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _estimate(content: dict[str, Any], tasks: int | None) -> Estimate:
    mean, ci95 = number(content["mean"]), number(content["ci95"])
    return Estimate(mean, ci95, tasks, whole(content.get("diverged", 0)))  # older files count none
