"""Every YAML composes, states every value, and takes two real steps."""

from __future__ import annotations

import dataclasses
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from metarun import config
from metarun.config import composition, registry
from metarun.config.registry import GROUPS
from metarun.core.outer_settings import Curvature
from metarun.datasets import emnist
from metarun.datasets.base import Split
from metarun.errors import UserError
from metarun.runs.experiment import Experiment
from metarun.runs.record import Record
from metarun.runs.setup import build
from metarun.runs.signals import StopSignals
from metarun.runs.train import train
from tests.support import cifar100, listed_images
from tests.support import own_tables as tables
from tests.support.commands import ON_IMAGES, same
from tests.support.mini_imagenet import small_copy
from tests.support.own_images import own_images
from tests.support.own_tables import STATES

ACTING = ["shot=2", "query=2", "dataset.horizon=5", "model.hidden=[8]", "eval.tasks=2"]
LISTED = ("class_list", "cub", "tieredimagenet", "emnist")
SMALL = ["model.filters=4", "way=2", "query=2", "algo.inner_steps=1", "algo.eval_inner_steps=1"]
QUICK = ["steps=2", "meta_batch=2", "eval.every=2", "eval.val_tasks=2", "log_every=1"]
OPTIONS = [(group, option) for group in GROUPS for option in config.choices(group)]


def overrides(group: str, option: str) -> list[str]:
    extra = {
        ("dataset", "sinusoid"): ["algo.eval_inner_steps=2"],
        ("dataset", "cheetah_direction"): ACTING,
        ("dataset", "cheetah_velocity"): ACTING,
        ("dataset", "navigation"): ["dataset.horizon=10"],
        ("algo", "reptile"): ["algo.eval_inner_steps=2"],
        ("algo", "oracle"): ["dataset=sinusoid", "algo.eval_inner_steps=2"],
        ("dataset", "table"): [*STATES[1:], "shot=2", "query=2"],
        ("dataset", "arrays"): [
            "shot=2",
            "query=2",
            "dataset.path=series.npz",
            "dataset.shares=[0.34,0.33,0.33]",
            "way=2",
        ],
        ("dataset", "image_folder"): ["model.filters=4", "way=2", "query=2", "dataset.shares=[0.4,0.3,0.3]"],
        ("dataset", "miniimagenet"): ["model.filters=4", "way=2", "query=2"],
        **{("dataset", name): SMALL for name in ("cifar_fs", "fc100")},
        **{("dataset", name): [*SMALL, "dataset.size=16", "dataset.split=mine.json"] for name in LISTED},
        ("model", "conv4_mini"): ["model.filters=4", "dataset=miniimagenet", "way=2", "query=2"],
        ("model", "conv4_mini_reptile"): ["model.filters=4", "dataset=miniimagenet", "way=2", "query=2"],
        ("model", "conv4_pool"): ["model.filters=4"],
        ("model", "gaussian_mlp"): ["dataset=navigation", "dataset.horizon=10"],
        ("model", "resnet18"): ["way=2", "query=1", "algo.eval_inner_steps=1"],
    }
    quick = QUICK if option != "random" else [word for word in QUICK if word != "steps=2"]
    return [f"{group}={option}", *quick, *extra.get((group, option), [])]


def narrow(experiment: Experiment) -> Experiment:
    """With few filters, where the network has any: the default's 64 take their time."""
    if not hasattr(experiment.model, "filters"):
        return experiment
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, filters=8))  # type: ignore[call-arg]


@pytest.mark.sampled(1)
@pytest.mark.filterwarnings("ignore:dataset=miniimagenet")
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_learns_for_two_steps(
    group: str, option: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = overrides(group, option)
    if (group, option) in (("dataset", "omniglot"), ("dataset", "mnist")):
        words.append(f"data_root={request.getfixturevalue('data_root')}")
    if option.startswith("cheetah"):
        pytest.importorskip("mujoco", reason="needs pip install 'metarun[mujoco]', which the dev extra contains")
    if option in ("miniimagenet", "conv4_mini", "conv4_mini_reptile"):
        small_copy(tmp_path / "data" / "miniimagenet", "folders by split")
        words.append(f"data_root={tmp_path / 'data'}")
    if option in ("cifar_fs", "fc100"):
        cifar100.copy(tmp_path / "data", "npz", made_up := cifar100.pixels())
        cifar100.in_place_of_the_real(monkeypatch, made_up)
        words.append(f"data_root={tmp_path / 'data'}")
    if option in LISTED:
        listed = {Split.train: [*"ABC"], Split.val: [*"DE"], Split.test: [*"FG"]}  # names of classes of EMNIST too
        places = {"class_list": "images", "cub": "CUB_200_2011/images", "tieredimagenet": "tieredimagenet"}
        if option == "emnist":
            monkeypatch.setattr(emnist, "IMAGES", len(listed_images.write_emnist(tmp_path / "data")[0]))
        else:
            listed_images.write_folders(tmp_path / "data" / places[option], listed)
        listed_images.write_list(tmp_path / "data" / "mine.json", listed)
        words.append(f"data_root={tmp_path / 'data'}")
    if option == "image_folder":
        own_images(tmp_path / "data" / "images")
        words.append(f"data_root={tmp_path / 'data'}")
    if option in ("table", "arrays"):
        tables.write(tmp_path / "data" / "sensors.csv")
        tables.arrays(tmp_path / "data" / "series.npz")
        words.append(f"data_root={tmp_path / 'data'}")
    if (group, option) == ("device", "cuda") and not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda"):
            build(config.compose(words)[0])
        return
    experiment, record = config.compose(words)
    assert record.names[group] == option
    bench = build(narrow(experiment))
    before = bench.first_meta()
    state = train(bench, tmp_path, StopSignals())
    learns = option != "random"
    assert state.step == (2 if learns else 1)
    assert same(before, state.meta) is not learns


@pytest.mark.sampled(2, 24)
@pytest.mark.parametrize("algo", [*ON_IMAGES, "oracle", "mann"])
@pytest.mark.parametrize("dataset", ["glyphs", "sinusoid", "gaussians"])
def test_every_algorithm_runs_on_images_on_regression_and_on_points(algo: str, dataset: str, tmp_path: Path) -> None:
    words = [f"algo={algo}", f"dataset={dataset}", "algo.eval_inner_steps=2", *QUICK]
    if algo == "random":
        words.remove("steps=2")  # it makes one, whatever is asked
    points = ("sinusoid", "gaussians")
    impossible = {
        "oracle": ("glyphs", "gaussians"),
        "protonet": points,
        "protomaml": points,
        "mann": points,
        "boil": ("gaussians",),
    }
    if dataset in impossible.get(algo, ()):  # boil: a logistic model is nothing but a head
        with pytest.raises(UserError, match="algo"):
            build(config.compose(words)[0])
        return
    bench = build(narrow(config.compose(words)[0]))
    assert train(bench, tmp_path, StopSignals()).step == bench.experiment.steps


def parsed(words: list[str]) -> tuple[Experiment, Record]:
    """As ``config.compose``, where Hydra is open."""
    return composition.parse(*composition.split(composition.compose_words(words)))


@pytest.mark.full
def test_every_file_states_every_value() -> None:
    """A key that YAML leaves out has no default to hide behind; composing would fail, so it is enough to compose."""
    with composition.composing():  # once for all: compose opens Hydra anew and checks each word
        for options in zip_longest(*map(config.choices, GROUPS)):  # one of each group, as no value is another group's
            chosen = [(group, option) for group, option in zip(GROUPS, options, strict=True) if option]
            for group, option in chosen:
                text = (config.conf_dir() / group / f"{option}.yaml").read_text()
                assert text.startswith("# "), f"{group}/{option}.yaml says nothing about itself"
            assert "???" not in str(parsed([f"{group}={option}" for group, option in chosen])[1].values)


def test_every_part_has_an_option_of_its_name() -> None:
    for group in registry.PARTS:
        assert set(registry.part_classes(group)) <= set(config.choices(group))


@pytest.mark.full
def test_parts_state_no_defaults_and_take_no_unknown_key() -> None:
    """One of each group together, which says as much of each as alone: composing takes long, not looking."""
    of_groups = [[(group, *named) for named in registry.part_classes(group).items()] for group in registry.PARTS]
    with composition.composing():
        for chosen in zip_longest(*of_groups):
            parts = [part for part in chosen if part is not None]
            experiment, _ = parsed([f"{group}={name}" for group, name, _ in parts])
            for group, name, part in parts:
                live = getattr(experiment, group)
                assert type(live) is part and not hasattr(live, "__dict__"), f"{name}: slots=True is missing"
                declared = OmegaConf.structured(part)
                left = ("preset", "trust_region", "promp")  # which a data set need not have, and which few runs read
                stated = [key for key in declared if key not in left]
                assert all(OmegaConf.is_missing(declared, key) for key in stated), f"{name}: values belong in YAML"


def test_reopening_gives_the_same_experiment_and_takes_overrides() -> None:
    for words in (["algo=reptile"], ["dataset=sinusoid"], ["model=mlp", "device=cpu"]):
        experiment, record = config.compose(words)
        again, same = config.reopen(record, [])
        assert again == experiment and same == record
        other, _ = config.reopen(record, ["eval.tasks=7", "device=cpu", "eval.norm=all"])
        assert other.eval.tasks == 7 and other.device.kind.name == "cpu"
    with pytest.raises(UserError, match="keeps its algo"):
        config.reopen(record, ["algo=maml"])
    with pytest.raises(UserError, match="no such key"):
        config.reopen(record, ["eval.taks=7"])


@pytest.mark.parametrize("group", GROUPS)
def test_a_run_older_than_a_group_takes_the_groups_default(group: str) -> None:
    experiment, record = config.compose([])
    names, kinds, values = (
        {k: v for k, v in vars(record)[of].items() if k != group} for of in ("names", "kinds", "values")
    )
    again, same = config.reopen(Record(names=names, kinds=kinds, values=values), ["eval.tasks=7"])
    assert getattr(again, group) == getattr(experiment, group) and same.names == record.names and again.eval.tasks == 7


@pytest.mark.parametrize("group", registry.PARTS)
def test_a_part_that_is_not_installed_is_named(group: str) -> None:
    _, record = config.compose([])
    with pytest.raises(UserError, match=rf"^{group}: this run's is in metarun/\w+/mine\.py, which is not installed"):
        config.reopen(dataclasses.replace(record, kinds={**record.kinds, group: "mine"}), [])


@pytest.mark.sampled(8, 48)  # of 168
@pytest.mark.parametrize("algo", config.choices("algo"))
@pytest.mark.parametrize("dataset", config.choices("dataset"))
def test_every_method_goes_with_every_data_set(dataset: str, algo: str) -> None:
    """What a pair shares is the presets, a key or two; every method and every data set is composed above."""
    with composition.composing():
        _, record = parsed([f"algo={algo}", f"dataset={dataset}"])
    assert (record.names["algo"], record.names["dataset"]) == (algo, dataset)


def test_a_data_sets_preset_gives_way_to_what_is_typed_and_reaches_no_method_that_does_not_ask() -> None:
    usual, here = (config.compose(["algo=maml", f"dataset={name}"])[0].algo for name in ("glyphs", "sinusoid"))
    assert (usual.inner_lr, here.inner_lr) == (0.4, 0.01)  # type: ignore[attr-defined]
    typed = config.compose(["algo=maml", "dataset=sinusoid", "algo.inner_lr=0.2"])[0].algo
    assert typed.inner_lr == 0.2  # type: ignore[attr-defined]
    assert config.compose(["algo=protonet", "dataset=mnist"])[0].algo.inner_steps == 1


@pytest.mark.parametrize("algo", ["maml", "meta_sgd", "pretrain", "oracle", "random"])
def test_a_method_that_adds_to_anothers_file_keeps_the_preset_of_its_trust_region(algo: str) -> None:
    for dataset, curvature in (("navigation", Curvature.differences), ("cheetah_velocity", Curvature.exact)):
        composed = config.compose([f"algo={algo}", f"dataset={dataset}"])[0].algo
        assert composed.trust_region.curvature is curvature


def test_a_preset_is_no_setting_of_a_run() -> None:
    _, record = config.compose(["dataset=sinusoid"])
    assert not [key for key in record.identity() if "preset" in key]
    assert record.identity()["algo.inner_lr"] == 0.01


def test_what_a_yaml_file_says_of_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "plain": "# @package _global_\n# Letters of\n# two alphabets; others too.\ndefaults:\n"
        "  - /schema/dataset/glyphs@dataset\n",
        "variant": "# The same. Larger.\ndefaults:\n  - plain\n  - _self_\nsize: 3 # pixels\n",
    }
    (tmp_path / "dataset").mkdir()
    for name, text in files.items():
        (tmp_path / f"dataset/{name}.yaml").write_text(text)
    monkeypatch.setattr(registry, "conf_dir", lambda: tmp_path)
    said = registry.described("dataset")
    assert said["plain"] == ("glyphs", "Letters of two alphabets")
    assert said["variant"] == ("glyphs", "The same")
