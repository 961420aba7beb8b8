"""What data sets of a user's own rows have in common: how rows become tasks, splits and numbers for a network."""

from __future__ import annotations

import abc
import enum
import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from metarun.core.metric import ACCURACY, NORMALISED_ERROR, SQUARED_ERROR, Metric
from metarun.datasets.base import Dataset, Split, Tasks
from metarun.datasets.row_groups import Rows, by_column, by_shares, classes_of, grouped, large_enough, rows_of
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.datasets.scaling import Normalise, Scaling, scaled
from metarun.datasets.table_file import listed
from metarun.datasets.task_pool import Groups, TaskPool
from metarun.errors import UserError, require
from metarun.files import user_path


class Predict(enum.Enum):
    """What a task is to predict.

    Attributes:
        classes: the class of a row.
        numbers: one or several numbers of a row.
    """

    classes = "classes"
    numbers = "numbers"


@dataclass(kw_only=True, slots=True)
class OwnRows(Dataset):
    """Tasks made of a user's rows, of one of two kinds.

    Without ``task``, a task is N classes, drawn from those of its split, and rows of each, as with pictures. With
    ``task``, a task is what the data name, such as a machine or a patient, and support and query are rows of it; all
    tasks have the same classes, whose labels never change, or the same numbers to predict.

    Attributes:
        path: the file, relative to data_root, or absolute.
        predict: what a task is to predict.
        task: where each row's task is named; None: a task is classes of the split.
        split: where each row's split is named; None: classes or tasks are drawn by ``shares`` and ``split_seed``.
        shares: shares of train, val and test.
        split_seed: seed of splits by shares.
        min_rows: a class or task with fewer rows is left out; where tasks have classes, a task with fewer of any.
    """

    labelled: ClassVar[bool] = False  # only the file says how many inputs there are
    path: str
    predict: Predict
    task: str | None
    split: str | None
    shares: list[float]
    split_seed: int
    min_rows: int

    def __post_init__(self) -> None:
        whole = len(self.shares) == 3 and min(self.shares) >= 0 and math.isclose(sum(self.shares), 1, abs_tol=1e-6)
        require(whole, "shares", self.shares, "three numbers >= 0 whose sum is 1: train, val, test")
        require(self.min_rows >= 0, "min_rows", self.min_rows, ">= 0")
        named = self.task is not None or self.predict is Predict.classes
        require(named, "task", self.task, "what names each row's task: with predict=numbers no classes can make tasks")

    @property
    def has_way(self) -> bool:
        return self.predict is Predict.classes

    @property
    def fixed_labels(self) -> bool:
        return self.task is not None or not self.has_way

    @property
    def metric(self) -> Metric:
        if self.predict is Predict.classes:
            return ACCURACY
        return SQUARED_ERROR if self.normalising is Normalise.none else NORMALISED_ERROR

    @property
    def input_shape(self) -> tuple[int, ...]:
        raise UserError("dataset: only its file says how many inputs an example has")

    @property
    @abc.abstractmethod
    def normalising(self) -> Normalise:
        """How inputs are normalised. Each number to predict is normalised by itself, unless inputs are not."""

    @abc.abstractmethod
    def read(self, path: Path) -> Rows:
        """Read and check the file.

        Raises:
            UserError: it is not what the settings say.
        """

    def present(self, data_root: Path) -> Path | None:
        path = data_root / user_path(self.path)
        return path if path.exists() else None

    @abc.abstractmethod
    def read_some(self, path: Path, inputs: list[str], support: bool) -> Rows:
        """Read and check a file with rows of one task, for the use of a trained run.

        Args:
            path: the file.
            inputs: names of the run's inputs; none where they have none.
            support: whether they are a support set, so that what is predicted must be there.

        Raises:
            UserError: it is not what the settings say.
        """

    def load(self, data_root: Path, device: torch.device) -> Tasks:
        return self.load_as_trained({}, data_root, device)

    def load_as_trained(self, learned: Mapping[str, Any], data_root: Path, device: torch.device) -> Tasks:
        rows = self.read(data_root / user_path(self.path))
        facts = self._facts(rows)
        _require_same(learned, facts)
        classes = classes_of(rows, learned.get("classes") or [])
        groups, small = large_enough(grouped(rows, classes), self.min_rows)
        if small:
            least = f"dataset.min_rows={self.min_rows} rows{' of a class' if classes else ''}"
            said = f"left out {len(small)} {rows.noun} of fewer than {least}: {listed(small, 3)}"
            warnings.warn(f"dataset.path={self.path}: {said}", stacklevel=3)
        if self.split is None:
            held = by_shares(rows, groups, self.shares, self.split_seed)
        else:
            held = by_column(rows, groups, self.split)
        x, of_x = self._prepared(rows, rows.x, held, "x", rows.inputs, self.normalising, learned)
        facts |= {"classes": classes, "x": of_x}
        stamp = self._stamp(rows, held, small)
        if rows.task is None:
            return self._class_pool(x, rows, held, device, stamp, facts)
        stamp["interval"] = f"over rows drawn from the {len(held[Split.test])} test tasks; other tasks are not in it"
        y: np.ndarray
        unit = None
        if classes:
            number = {name: n for n, name in enumerate(classes)}
            y = np.array([number[name] for name in rows.y], np.int64)
            stamp["classes"] = f"{listed(classes)}; with the same labels in every task"
        else:
            how = Normalise.none if self.normalising is Normalise.none else Normalise.each
            y, facts["y"] = self._prepared(rows, rows.y, held, "y", rows.targets, how, learned)
            unit, stamp["targets"] = _unit(rows.targets, facts["y"])
        return TaskPool(
            x,
            y,
            held,
            device,
            stamp,
            facts,
            names=classes or rows.targets,
            metric=self.metric,
            unit=unit,
            few_tasks=self._remedy(held, "tasks"),
            few_rows=", or leave out tasks of fewer rows with dataset.min_rows={}",
        )

    def _facts(self, rows: Rows) -> dict[str, Any]:
        """What a test on another file, or another use of the trained network, must have in common with the run."""
        kind = "tasks of classes" if rows.task is None else "tasks that the data name"
        return {
            "predict": f"{self.predict.name} in {kind}",
            "inputs": rows.inputs,
            "shape": [*rows.x.shape[1:]],
            "targets": rows.targets if self.predict is Predict.numbers else [],
            "normalise": self.normalising.name,
        }

    def _prepared(
        self,
        rows: Rows,
        values: Any,
        held: dict[Split, Groups],
        key: str,
        names: list[str],
        how: Normalise,
        learned: Mapping[str, Any],
    ) -> tuple[np.ndarray, dict[str, Any] | None]:
        """Values as a network gets them, float32 [rows, ...], and what was learned for that; None: nothing."""
        if learned:  # in the run that is tested
            return scaled(values, Scaling.read(learned[key]) if learned[key] else None), learned[key]
        trained = rows_of(held[Split.train])
        if how is Normalise.none and not names:
            return scaled(values, None), None
        if not len(trained):
            raise UserError(f"dataset: the train split has no {rows.noun}{self._remedy(held, rows.noun)}")
        scaling = Scaling.of(values, trained, how if how is not Normalise.none else Normalise.each, names, key)
        if how is Normalise.none:  # measured for its refusals alone
            return scaled(values, None), None
        return scaled(values, scaling), {**scaling.plain(), "rows": len(trained)}

    def _stamp(self, rows: Rows, held: dict[Split, Groups], small: list[str]) -> dict[str, str]:
        sizes = [sum(map(len, of_task)) for groups in held.values() for of_task in groups.values()]
        counts = "/".join(str(len(held[split])) for split in Split)
        by = f"split_seed {self.split_seed}" if self.split is None else f"by {listed([self.split])}"
        named = f" by {listed([self.task])}" if self.task else ""
        left_out = f", {len(small)} {rows.noun} of fewer than {self.min_rows} left out" if small else ""
        inputs = listed(rows.inputs) or f"{rows.x.dtype} {[*rows.x.shape[1:]]}"
        how = "as they are" if self.normalising is Normalise.none else "normalised by the meta-training rows"
        one = "class" if rows.task is None else "task"
        return {
            "split": f"own {counts} {rows.noun}{named}, {by}",
            "rows": f"{sum(sizes)}, {min(sizes)} to {max(sizes)} a {one}{left_out}",
            "inputs": f"{inputs}; {how}",
            "pool_sha256": _checksum(rows),
        }

    def _remedy(self, held: dict[Split, Groups], noun: str) -> str:
        counts = "/".join(str(len(held[split])) for split in Split)
        shares = ",".join(f"{share:g}" for share in self.shares)
        by = f"by dataset.shares=[{shares}]" if self.split is None else f"by {self.split}"
        return f"; {sum(map(len, held.values()))} {noun} are split {counts} {by}"

    def _class_pool(
        self,
        x: np.ndarray,
        rows: Rows,
        held: dict[Split, Groups],
        device: torch.device,
        stamp: dict[str, str],
        facts: dict[str, Any],
    ) -> ClassPool:
        """Make tasks of classes; the classes of the splits stand one after another."""
        names = [name for split in Split for name in held[split]]
        members = [some for split in Split for (some,) in held[split].values()]
        numbers = iter(range(len(names)))
        return ClassPool(
            x[np.concatenate(members)],
            [len(some) for some in members],
            {split: [next(numbers) for _ in held[split]] for split in Split},
            Rotations.none,
            device,
            stamp,
            names=names,
            few_classes=f"{self._remedy(held, 'classes')}: lower way",
            few_images=", or leave out classes of fewer rows with dataset.min_rows={}",
            noun="rows",
            learned=facts,
        )


def _require_same(learned: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """Raise ``UserError`` where the run that is tested, if there is one, was trained on other columns or numbers."""
    for key, now in facts.items():
        if learned and learned[key] != now:
            was, has = (", ".join(map(str, v)) if isinstance(v, list) else v for v in (learned[key], now))
            raise UserError(f"dataset: {key}: the run was trained with {was or 'none'}; this test has {has or 'none'}")


def _unit(targets: list[str], learned: dict[str, Any] | None) -> tuple[tuple[str, float], str]:
    """Return the unit of an error of 1 (``Supervised``), and the same in words for the protocol."""
    names = [listed([name]) for name in targets]
    if learned is None:
        return (f"rmse of {listed(names, 3)}", 1.0), f"{listed(names)}; in their own units"
    told = [f"{name} (an error of 1 is {size:.6g})" for name, size in zip(names, learned["deviation"], strict=True)]
    words = f"{listed(told)}; normalised by the meta-training rows"
    if len(names) > 1:
        return ("rmse in deviations", 1.0), words
    return (f"rmse of {names[0]}", learned["deviation"][0]), words


def _checksum(rows: Rows) -> str:
    """16 hexadecimal digits of the SHA-256 of everything in the rows but their split."""
    digest = hashlib.sha256(np.ascontiguousarray(rows.x).data)
    digest.update(repr((rows.x.dtype, rows.x.shape, rows.inputs, rows.targets, rows.task)).encode(errors="replace"))
    digest.update(repr(rows.y).encode() if isinstance(rows.y, list) else np.ascontiguousarray(rows.y).data)
    return digest.hexdigest()[:16]
