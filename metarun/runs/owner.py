"""Whose a checkpoint is: one of another meta-training, or of another network, is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.tree import Params
from metarun.errors import UserError
from metarun.runs.experiment import Bench

MOST = 3  # differing settings that a message names
DECIDE = {"betas", "eps", "weight_decay", "momentum"}  # every torch has them; other entries are younger


@dataclass(frozen=True)
class Owner:
    """What the checkpoints of one meta-training have in common."""

    training: dict[str, Any]  # the settings that decide it, dotted key -> value; empty: not known
    steps: int  # meta-iterations in all
    meta: Params  # of these names, shapes and types
    optimizer: dict[str, Any]  # torch's state dict after a step

    @staticmethod
    def of(bench: Bench, training: dict[str, Any] | None) -> Owner:
        meta = tree.combine(torch.clone, bench.first_meta())
        outer = bench.experiment.algo.outer_step(meta)
        outer.step(tree.zeros_like(meta), progress=0.0)
        return Owner(training or {}, bench.experiment.steps, meta.flat(), outer.optimizer.state_dict())

    def check(self, path: Path, content: Any, selected: bool = False) -> None:
        """Raise ``UserError``, naming what does not fit, for the content of a file that is not this training's.

        selected: the file may hold the parameters alone that validation chose, from which no training goes on.
        """
        try:
            problem = next(self._problems(content, selected), None)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            problem = f"its content is not what metarun writes ({type(error).__name__})"
        if problem:
            raise UserError(
                f"{path}: does not fit this run: {problem}. A run goes on from its own checkpoints alone, with way and "
                "model.* as they were trained"
            )

    def _problems(self, content: Any, selected: bool) -> Iterator[str]:
        kinds = ({"step", "meta", "optimizer", "selection"}, {"step", "meta", "value", "ci95"})  # last.pt and best.pt
        newer = {"training", "diverged"}  # entries that older files lack
        if not isinstance(content, dict) or set(content) - newer not in kinds[: 1 + selected]:
            yield f"its entries are not those of {'a checkpoint' if selected else 'a checkpoint to go on from'}"
        yield from self._settings(content.get("training", {}))  # files of before do not say
        yield from self._parameters("meta-parameters", content["meta"])
        yield from _step(content["step"], self.steps)
        if "optimizer" in content:
            yield from self._moments(content["optimizer"], content["step"])
        chosen = content.get("selection", content)
        if chosen is None:
            return
        floats = all(type(chosen[n]) is float for n in ("value", "ci95"))
        if set(chosen) - newer != kinds[1] or not floats or type(chosen.get("diverged", 0)) is not int:
            yield "its selection is none"
        yield from self._parameters("selected meta-parameters", chosen["meta"])
        yield from _step(chosen["step"], content["step"])

    def _settings(self, theirs: dict[str, Any]) -> Iterator[str]:
        """Settings that only one of the two knows came into being in between."""
        both = [key for key in self.training if key in theirs and theirs[key] != self.training[key]]
        if both:
            said = "; ".join(f"{key}: {theirs[key]} there, {self.training[key]} here" for key in both[:MOST])
            more = f"; and {len(both) - MOST} more" if len(both) > MOST else ""
            yield f"it was trained with other settings ({said}{more})"

    def _parameters(self, what: str, params: dict[str, Tensor]) -> Iterator[str]:
        for name in {**self.meta, **params}:
            here, there = (_kind(p[name]) if name in p else "missing" for p in (self.meta, params))
            if here != there:
                yield f"{name} is {there} in its {what}, {here} in this run's"
            if not params[name].isfinite().all():
                yield f"its {what} are not finite numbers ({name})"

    def _moments(self, theirs: dict[str, Any], step: int) -> Iterator[str]:
        for group, mine in zip(theirs["param_groups"], self.optimizer["param_groups"], strict=True):
            for key in mine.keys() & (group.keys() | DECIDE) - {"lr"}:  # which is set anew at every step
                if key not in group or group[key] != mine[key]:
                    yield f"its meta-optimiser has {key}={group.get(key, 'nothing')}, this run's {mine[key]}"
        if step == 0:
            return
        for index, mine in self.optimizer["state"].items():
            entry = theirs["state"].get(index, {})
            there, here = ({key: _kind(v) for key, v in s.items() if v is not None} for s in (entry, mine))
            if there != here:
                yield f"its meta-optimiser's state is {there} for parameter {index}, this run's {here}"
            made = entry.get("step")
            if made is not None and int(made) != min(step, 2**24):  # a float32, which counts no further
                yield f"it says step {step}, and its meta-optimiser made {int(made)}"


def _step(step: Any, most: int) -> Iterator[str]:
    if type(step) is not int or not 0 <= step <= most:
        yield f"step {step} is not one of 0..{most}"


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
