"""Hydra beneath hydra.main: what metarun needs of it gives what metarun takes it for."""

from __future__ import annotations

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from metarun import config
from metarun.compat.hydra import clash, jobs_of_sweep, lacking, options, parse, reading, runs_jobs_here, subgroups
from metarun.config.composition import types


def test_a_folder_is_read_and_nothing_stays() -> None:
    with reading(config.conf_dir(), None, types()):
        assert "maml" in options("algo") and "sinusoid" in subgroups("recipe")
        (one,) = parse("algo.inner_steps=3")
        assert (one.key_or_group, one.value(), one.input_line) == ("algo.inner_steps", 3, "algo.inner_steps=3")
        jobs = jobs_of_sweep([*parse("seed=0,1"), *parse("way=5")])
        assert jobs == [["seed=0", "way=5"], ["seed=1", "way=5"]]
    assert not GlobalHydra.instance().is_initialized()


def test_choices_that_do_not_go_together_are_read_from_the_text() -> None:
    said = "In 'dataset/mine': ConfigKeyError raised: Key 'shot' not in 'Other' full_key: algo.shot object_type=Other"
    assert clash(said) == ("dataset", "mine", "algo.shot", "algo")
    assert clash("In 'dataset/mine': Could not load it") is None


def test_a_launcher_that_is_not_there_is_read_from_the_text() -> None:
    with reading(config.conf_dir(), None, types()), pytest.raises(HydraException) as caught:
        hydra.compose("train", ["hydra/launcher=nowhere"])
    found = lacking(" ".join(str(caught.value).split()))
    assert found and found[:2] == ("hydra/launcher", "nowhere") and "basic" in found.options.split()
    assert lacking("Could not find 'algo/nowhere'") is None


@pytest.mark.parametrize("launcher, here", [(None, True), ("hydra_plugins.joblib.JoblibLauncher", False)])
def test_jobs_in_processes_of_their_own(launcher: str | None, here: bool) -> None:
    with reading(config.conf_dir(), None, types()):
        settings = hydra.compose("train", return_hydra_config=True).hydra
    if launcher:
        settings = OmegaConf.create({"launcher": {"_target_": launcher}})
    assert runs_jobs_here(settings) is here
