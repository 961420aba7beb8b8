"""What tests remember of Hydra's compositions is what it composes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from metarun.config.composition import composing
from metarun.config.session import compose_words
from metarun.errors import UserError
from tests.support.compositions import remember

GROUPS = {  # words -> those of them that choose options
    "": "",
    "steps=2 algo.inner_lr=0.1 eval.shot=${way} run_dir='a=b'": "",
    "steps=2 algo=imaml seed=1 dataset=gaussians algo.cg_steps=3 steps=7": "algo=imaml dataset=gaussians",
    "recipe=sinusoid/maml_10s recipe.budget=0.5 hydra.mode=RUN seed=1": "recipe=sinusoid/maml_10s hydra.mode=RUN",
    "tracker=[comet,tensorboard] tracker.comet.project=mine": "tracker=[comet,tensorboard]",
}
REFUSED = {
    **dict.fromkeys(["stpes=2", "eval.stpes=2", "steps=two", "seed=1,2", "steps=[1"], ""),
    "algo=maml algo.proximal=1": "algo=maml",
}


def composed(patch: pytest.MonkeyPatch, words: list[str], folder: Path | None = None) -> tuple[str, list[list[str]]]:
    """The composition as text, or the error, and the words of all that Hydra composed for it; folder: the memory."""
    asked: list[list[str]] = []
    load = ConfigLoaderImpl.load_configuration.__wrapped__  # type: ignore[attr-defined]

    def told(self: Any, config_name: Any, overrides: list[str], *how: Any, **more: Any) -> Any:
        asked.append(list(overrides))
        return load(self, config_name, overrides, *how, **more)

    with patch.context() as until, composing():
        until.setattr(ConfigLoaderImpl, "load_configuration", told)
        if folder is not None:
            remember(until, folder)
        try:
            return OmegaConf.to_yaml(compose_words(words)), asked
        except UserError as error:
            return str(error), asked


@pytest.mark.full
@pytest.mark.parametrize("words", [*GROUPS, *REFUSED])
def test_remembered_is_composed(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want, whole = composed(monkeypatch, words.split())
    assert whole == [words.split()]
    refused = [words.split()] if words in REFUSED else []  # so that the error is Hydra's own
    for first in ([{**GROUPS, **REFUSED}[words].split()], []):
        assert composed(monkeypatch, words.split(), tmp_path) == (want, first + refused)
