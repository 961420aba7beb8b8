"""Which training a checkpoint belongs to. A checkpoint of another training or network is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.outer_step import Nothing
from metarun.core.tree import Params
from metarun.errors import UserError
from metarun.runs.record import EXTENDED
from metarun.runs.setup import Setup

MOST = 3  # differing settings listed in a message
DECIDE = {"betas", "eps", "weight_decay", "momentum"}  # compared always; other entries are missing in older torch


@dataclass(frozen=True)
class Owner:
    """The properties that all checkpoints of one meta-training share.

    Attributes:
        training: settings that affect the training, dotted key -> value; empty: not known.
        steps: meta-iterations of the whole training.
        meta: meta-parameters as one flat dict; their names, shapes and types are compared.
        optimizer: the outer step's state dict after one meta-iteration; empty where it has none.
    """

    training: dict[str, Any]
    steps: int
    meta: Params
    optimizer: dict[str, Any]

    @staticmethod
    def of(setup: Setup, training: dict[str, Any] | None) -> Owner:
        """Compute the properties from a setup and the settings that affect its training."""
        meta = tree.combine(torch.clone, setup.first_meta())
        outer = setup.experiment.algo.outer_step(meta)
        outer.step(tree.zeros_like(meta), 0.0, Nothing())
        return Owner(training or {}, setup.experiment.steps, meta.flat(), outer.state_dict())

    def check(self, path: Path, content: Any, resumes: bool = True) -> None:
        """Check that a checkpoint belongs to this training.

        Args:
            path: the checkpoint's file, for the message.
            content: its content.
            resumes: whether training must be able to resume from it. A ``best.pt`` holds only the parameters selected
                on validation, and a ``tested.pt`` these or the last ones.

        Raises:
            UserError: it does not belong; the message names the difference.
        """
        try:
            problem = next(self._problems(content, resumes), None)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            problem = f"its content is not what metarun writes ({type(error).__name__})"
        if problem:
            raise UserError(
                f"{path}: does not fit this run: {problem}. A run resumes only from its own checkpoints, with way and "
                "model.* as they were trained"
            )

    def _problems(self, content: Any, resumes: bool) -> Iterator[str]:
        alone = {"step", "meta"}
        kinds = ({*alone, "optimizer", "selection"}, {*alone, "value", "ci95"}, alone)  # last.pt, best.pt, tested.pt
        newer = {"training", "diverged", "others"}  # entries that older files lack
        if not isinstance(content, dict) or set(content) - newer not in kinds[: 1 if resumes else None]:
            yield f"its entries are not those of {'a checkpoint to resume from' if resumes else 'a checkpoint'}"
        yield from self._settings(content.get("training", {}))  # older files have none
        yield from self._parameters("meta-parameters", content["meta"])
        yield from _step(content["step"], self.steps)
        if "optimizer" in content:
            yield from self._moments(content["optimizer"], content["step"])
        chosen = content.get("selection", content)
        if chosen is None or set(content) - newer == alone:
            return
        for of in (chosen, *chosen.get("others", [])):
            floats = all(type(of[n]) is float for n in ("value", "ci95"))
            if set(of) - newer != kinds[1] or not floats or type(of.get("diverged", 0)) is not int:
                yield "its selection is none"
            yield from self._parameters("selected meta-parameters", of["meta"])
            yield from _step(of["step"], self.steps if of is not chosen else content["step"])

    def _settings(self, theirs: dict[str, Any]) -> Iterator[str]:
        """Compare the settings that both have: one that only one of them has was added or removed between versions."""
        shorter = theirs.get("steps") in self.training.get(EXTENDED, [])  # of the run before it was extended
        mine = {key: value for key, value in self.training.items() if not (shorter and key in ("steps", EXTENDED))}
        both = [key for key in mine if key in theirs and theirs[key] != mine[key]]
        if both:
            said = "; ".join(f"{key}: {theirs[key]} there, {mine[key]} here" for key in both[:MOST])
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
        groups, mine_too = (state.get("param_groups", []) for state in (theirs, self.optimizer))
        if len(groups) != len(mine_too):
            yield "its outer optimiser is another than this run's"
        for group, mine in zip(groups, mine_too, strict=False):
            for key in mine.keys() & (group.keys() | DECIDE) - {"lr"}:  # lr is set again at every step
                if key not in group or group[key] != mine[key]:
                    yield f"its outer optimiser has {key}={group.get(key, 'nothing')}, this run's {mine[key]}"
        if step == 0:
            return
        for index, mine in self.optimizer.get("state", {}).items():
            entry = theirs["state"].get(index, {})
            there, here = ({key: _kind(v) for key, v in s.items() if v is not None} for s in (entry, mine))
            if there != here:
                yield f"its outer optimiser's state is {there} for parameter {index}, this run's {here}"
            made = entry.get("step")
            if made is not None and int(made) != min(step * int(mine["step"]), 2**24):  # float32 counts no further
                yield f"it is of meta-iteration {step}, and its outer optimiser made {int(made)} steps"


def _step(step: Any, most: int) -> Iterator[str]:
    if type(step) is not int or not 0 <= step <= most:
        yield f"meta-iteration {step} is not one of 0..{most}"


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
