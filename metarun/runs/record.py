"""The record of a run: its configuration as plain data, what of it decides the result, and ``config.json``."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metarun.core import outer_settings
from metarun.datasets.base import Dataset, Tasks
from metarun.errors import UserError, require
from metarun.files import read_file, write_json
from metarun.results.result_file import sealed
from metarun.runs import held_out
from metarun.runs.experiment import Experiment
from metarun.runs.held_out import Facts, Trained
from metarun.runs.start import Start

CONFIG = "config.json"
RULES = {"trust_region": "trpo", "promp": "promp"}  # settings of one outer optimizer, which others do not read
EXTENDED = "extended (steps)"  # key of an identity
ENDS = ("eval.every", "eval.patience")  # settings of evaluation that checkpoints depend on
# keys that do not affect the result: paths, resume policy, and presets, whose values are stored where they are used
# and where first parameters lie: their checksum counts
NOT_IDENTITY = ("run_dir", "data_root", "resume", "extend", "init", "recipe.reference", "dataset.preset")
# settings that older run folders lack, by group and module, with the values that those runs used; a new setting of a
# part belongs here, or runs from before it are refused
DESCENT = {"eval_later_lr": 1.0}
UNROLLED = {**DESCENT, "head": "learned"}
LATER: dict[tuple[str, str], dict[str, Any]] = {
    ("dataset", "image_folder"): {"split": "shares", "layers": 1, "min_images": 0, "white": None},
    ("model", "mlp"): {"norm_gamma": True, "norm_eps": 1e-5},
    **{("algo", name): DESCENT for name in ("oracle", "pretrain", "random")},
    **{("algo", name): UNROLLED for name in ("maml", "meta_sgd")},
    ("algo", "mamlpp"): {**UNROLLED, "per_step": []},
}


@dataclass(frozen=True)
class Record:
    """A configuration as plain data.

    Attributes:
        names: group -> chosen option.
        kinds: group -> the option's module.
        values: all settings, nested.
        changed: settings that differ from those of the recipe, where there is one.
        data: description of the data (``held_out.facts``); None in older folders.
        command: the words that were typed after ``metarun``; none in older folders.
        start: the parameters that the run starts from; None: random ones.
        extended: meta-iterations after which the run had ended before it was extended -> what makes it another run than
            one of its whole length; nothing: it is the same.
        trained_on: the training, for a test on another data set than that of the training; else None.
    """

    names: dict[str, str]
    kinds: dict[str, str]
    values: dict[str, Any]
    changed: list[str] = field(default_factory=list)
    data: Facts | None = None
    command: list[str] = field(default_factory=list, compare=False)
    start: Start | None = None
    extended: dict[str, list[str]] = field(default_factory=dict)
    trained_on: Trained | None = None

    def identity(self) -> dict[str, Any]:
        """Return dotted key -> value of every key that affects the result."""
        chosen: dict[str, Any] = {f"{group} (option)": name for group, name in self.names.items()}
        chosen |= {"init (sha256)": self.start.sha256[:16]} if self.start else {}
        chosen |= {EXTENDED: [int(steps) for steps in self.extended]} if self.extended else {}
        if of := self.trained_on:
            chosen |= {
                "trained on": of.what,
                **{f"trained on {key}": value for key, value in _flat(of.settings).items()},
            }
        usual, given = self.usual(), _flat(self.values)
        given = {key: value for key, value in given.items() if key not in usual or usual[key] != value}
        unread = [f"algo.{rule}." for rule, of in RULES.items() if given.get("algo.outer_optimizer") != of]
        return chosen | {key: value for key, value in given.items() if not key.startswith(tuple(unread))}

    def usual(self) -> dict[str, Any]:
        """Return dotted key -> value of the settings that an identity states only where they differ."""
        return USUAL | _flat({group: LATER.get((group, module), {}) for group, module in self.kinds.items()})

    def tested_on(self, which: str) -> Record:
        """Return the record of a test of one checkpoint, ``which`` = best or last.

        It differs in ``eval.select``, so the results of the two checkpoints are two rows of a table. Validation does
        not choose the last one, so it has no ensemble.
        """
        evaluation = self.values.get("eval")
        alone = {"ensemble": None} if which == "last" else {}
        chosen = {**evaluation, "select": which, **alone} if isinstance(evaluation, dict) else evaluation
        return replace(self, values={**self.values, "eval": chosen})

    def training(self) -> dict[str, Any]:
        """Return the part of the identity that affects checkpoints: without test settings and the recipe's name."""
        beside = [key for key in self.identity() if key.startswith("eval.") and key not in ENDS]
        return {key: value for key, value in self.identity().items() if key not in (*beside, "recipe.name")}

    def hash(self, training_only: bool = False) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of ``identity``, or of ``training``."""
        content = self.training() if training_only else self.identity()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def name(self, experiment: Experiment) -> str:
        """Return the name of a run folder without the date: algorithm, data set, task and seed."""
        x = experiment
        task = x.dataset.short_kind(x.eval_way, x.eval.shot)
        return f"{self.names['algo']}_{self.names['dataset']}_{task}_s{x.seed}"

    def write(self, run_dir: Path) -> None:
        """Write the record into a run folder, with a checksum."""
        started = {"start": self.start.to_json()} if self.start else {}
        rest = {key: value for key, value in vars(self).items() if key not in ("start", "trained_on")}
        write_json(run_dir / CONFIG, sealed({**rest, **started}))

    @staticmethod
    def read(run_dir: Path) -> Record | None:
        """Read the record of a run folder; None if there is none. Older files have no checksum.

        Raises:
            UserError: it is damaged, or was changed after it was written.
        """
        path = run_dir / CONFIG
        data = read_file(path)
        if data is None:
            return None
        return Record.of(data, path)

    @staticmethod
    def of(data: bytes | str, path: Path) -> Record:
        """Make the record of a JSON text.

        Args:
            data: the text.
            path: the file that it is from, for messages.

        Raises:
            UserError: it is damaged, or was changed after it was written.
        """
        try:
            content = json.loads(data)
            whole = "sha256" not in content or sealed(content) == content
            start = Start.from_json(content["start"]) if content.get("start") else None
            rest = {key: value for key, value in content.items() if key not in ("sha256", "start")}
            record = Record(**rest, start=start)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: damaged ({error})") from None
        if not whole:
            raise UserError(f"{path}: was changed after metarun wrote it (its sha256 does not fit)")
        if not record._is_sound():
            raise UserError(
                f"{path}: damaged (its names, kinds, values, changed, data and command are not what metarun writes)"
            )
        for group, module in record.kinds.items():
            record.values[group] = {**LATER.get((group, module), {}), **record.values[group]}
        return record

    def _is_sound(self) -> bool:
        """Whether the types are right; JSON does not check them."""
        texts = (self.names, self.kinds)
        if not all(isinstance(part, dict) for part in (*texts, self.values)) or not isinstance(self.changed, list):
            return False
        if not isinstance(self.extended, dict) or not all(steps.isdecimal() for steps in self.extended):
            return False
        texts_of = [text for why in self.extended.values() for text in (why if isinstance(why, list) else [None])]
        if not all(isinstance(text, str) for text in texts_of):
            return False
        if not held_out.sound(self.data):
            return False
        if not isinstance(self.command, list) or not all(isinstance(word, str) for word in self.command):
            return False
        named = all(isinstance(text, str) for part in texts for text in part.values())
        return (
            named
            and self.names.keys() == self.kinds.keys()
            and all(isinstance(self.values.get(group), dict) for group in self.kinds)
        )


def refuse_seen(record: Record, tasks: Tasks) -> None:
    """Raise ``UserError`` where a test class of these tasks was seen by the parameters that the run starts from."""
    if record.start:
        record.start.refuse_seen(held_out.facts(tasks), record.kinds["dataset"], record.values["dataset"])


def trained_elsewhere(before: Record, trained: Dataset, asked: Dataset, name: str) -> Trained:
    """Describe what a run was trained on, for a test on another data set, whose tasks must fit its network.

    Args:
        before: the run's record.
        trained: its data set.
        asked: the data set of the test.
        name: option of that.

    Raises:
        ConfigError: its tasks are of another kind, or its inputs of another shape.
    """
    was, now = ((of.has_way, of.binary, of.labelled, of.metric) for of in (trained, asked))
    require(was == now, "dataset", name, f"a data set with tasks of the kind that {before.names['dataset']} has")
    here, there = list(asked.input_shape), list(trained.input_shape)
    fits = f"a data set with inputs {there}, as in training; its own are {here}{_converted(asked, here, there)}"
    require(here == there, "dataset", name, fits)
    if asked.ink != trained.ink:
        warnings.warn(f"dataset={name}: dark and light are the other way round than in training", stacklevel=2)
    return Trained(
        what=before.names["dataset"],
        kind=before.kinds["dataset"],
        settings=before.values["dataset"],
        data=before.data,
        selected=False,
    )


def _converted(asked: Dataset, here: list[int], there: list[int]) -> str:
    """Name the settings that would give images another size or other channels, where the data set has them."""
    if len(here) != 3 or len(there) != 3 or there[1] != there[2]:
        return ""
    settings = {}
    if here[1:] != there[1:]:
        settings["size"] = f"dataset.size={there[2]}"
    if here[0] != there[0] and there[0] in (1, 3):
        settings["grey"] = f"dataset.grey={'true' if there[0] == 1 else 'false'}"
    has = all(hasattr(asked, key) for key in settings) and (here[0] == there[0] or "grey" in settings)
    return f"; try {' '.join(settings.values())}" if has and settings else ""


def departures(identity: dict[str, Any], published: Record) -> dict[str, tuple[Any, Any]]:
    """Compare an identity with that of its recipe.

    Settings of the device are ignored, and settings that only one of the two has: they were added or removed between
    the two versions.

    Returns:
        Dotted key -> (value, published value) of each setting that differs.
    """
    has, wanted = published.usual() | identity, published.usual() | published.identity()
    return {
        key: (value, wanted[key])
        for key, value in has.items()
        if key in wanted and wanted[key] != value and not key.startswith("device")
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of nested settings, without those that do not affect the result."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if prefix + key in NOT_IDENTITY:
            continue
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


# settings with a default in their type, which an identity does not state: older runs lack them, and few runs read them
USUAL = _flat(
    {
        "eval": {"patience": None, "way": None, "ensemble": None},
        "algo": outer_settings.USUAL,
    }
)
