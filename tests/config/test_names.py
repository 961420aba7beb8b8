"""Names are held against the YAML files alone, so these must state every key that the types have."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest
from omegaconf import DictConfig

from metarun import config
from metarun.compat.hydra import Types
from metarun.config import composition, names
from metarun.config.overrides import leaves
from metarun.config.registry import GROUPS, tables
from metarun.config.session import compose_words, opened, without_hydra
from metarun.errors import UserError

# every option of every group stands in one of these, and a recipe of every table
JOBS = [
    [f"{group}={option}" for group, option in zip(GROUPS, options, strict=True) if option]
    for options in zip_longest(*map(config.choices, GROUPS))
] + [[f"tracker=[{','.join(config.choices('tracker'))}]"]]
JOBS += [[f"recipe={next(name for name in config.choices('recipe') if name.startswith(table))}"] for table in tables()]


def composed(types: Types, job: list[str]) -> DictConfig:
    with opened(types):
        return without_hydra(compose_words(job))


@pytest.mark.sampled(6)  # each composes twice; make test-all has every option
@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_the_yaml_files_state_every_key_of_the_types(job: list[str]) -> None:
    typed, untyped = (composed(types, job) for types in (composition.types(), names._untyped()))
    assert set(leaves(typed)) - {"recipe"} == set(leaves(untyped))  # recipe alone is a choice, not a key


@pytest.mark.parametrize(
    ("words", "multirun", "said"),
    [
        (["stpes=3"], False, r"stpes=3: no such key \(did you mean steps\?\)"),
        (["algo=mamll"], False, r"algo=mamll: must be one of .* \(did you mean maml\?\)"),
        (["algo=maml,reptile", "algo.train_shto=1"], True, r"algo\.train_shto=1: no such key"),
        (["seed=0,1", "stpes=3,4"], True, "stpes=3: no such key"),
        (["algo=glob(x*)"], True, "is a sweep without values"),
        (["recipe=sinusoid/maml_5s", "recipe.name=x"], False, r"recipe\.name=x: comes with the recipe"),
        (["foo"], False, "foo: cannot be read"),
        (["run_dir="], False, "run_dir=: has no value"),
    ],
)
def test_a_wrong_name_is_refused(words: list[str], multirun: bool, said: str) -> None:
    with pytest.raises(UserError, match=said):
        names.check(words, multirun)


@pytest.mark.parametrize(
    "words",
    [
        ["steps=three", "algo.inner_lr=-1"],  # values are for the types to check
        ["run_dir=a=b c/${seed}", "hydra.sweep.dir=x", "hydra/launcher=basic"],
        ["recipe=sinusoid/maml_5s", "recipe.budget=0.1"],
    ],
)
def test_what_is_no_name_passes(words: list[str]) -> None:
    names.check(words)


def test_choices_of_ones_own_need_not_state_every_key(tmp_path: Path) -> None:
    names.check(["algo=mine", "algo.not_stated=1"], config_dir=str(tmp_path))
