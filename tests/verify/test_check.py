"""``metarun check``: methods of a user's own, which it knows nothing of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from metarun import config
from metarun.algorithms.base import Algorithm
from metarun.algorithms.maml import MAML
from metarun.algorithms.protonet import ProtoNet
from metarun.cli import main as cli
from metarun.engine.over_tasks import Engine, Vectorize
from metarun.errors import require
from metarun.verify import check, definitions, problems


@dataclass(kw_only=True, slots=True)
class Centres(ProtoNet):
    """A method without ``inner_lr``."""

    temperature: float


@dataclass(kw_only=True, slots=True)
class OneStep(MAML):
    """A method that refuses the small settings."""

    def __post_init__(self) -> None:
        MAML.__post_init__(self)
        require(self.inner_steps == 1, "inner_steps", self.inner_steps, "1")


def made(kind: type, of: str, **more: object) -> Algorithm:
    """A method of this class, with the settings of another and some more."""
    like = config.compose([f"algo={of}"])[0].algo
    return kind(**{f.name: getattr(like, f.name) for f in dataclasses.fields(like)} | more)


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network, one way of computing."""
    case = next(problems.cases(torch.device("cpu")))

    def one(*_: object) -> Iterator[problems.Case]:
        yield case

    monkeypatch.setattr(check, "cases", one)
    monkeypatch.setattr(check, "engines", lambda device: {"vmap": (Engine(Vectorize.vmap), 0)})


def test_a_method_of_ones_own_is_checked_whatever_settings_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(definitions.REFERENCES, Centres, definitions.protonet_reference)
    monkeypatch.setitem(definitions.REFERENCES, OneStep, definitions.maml_reference)
    mine = {"centres": made(Centres, "protonet", temperature=1.0), "one": made(OneStep, "maml", inner_steps=1)}
    rows = list(check.rows(mine, torch.device("cpu")))
    assert {row.algo for row in rows} >= {"centres", "one"} and all(row.right for row in rows)
    assert check.unchecked(mine) == {}


def test_small_settings_are_those_that_a_method_uses() -> None:
    reptile, pretrain = (problems.small(config.compose([f"algo={name}"])[0].algo) for name in ("reptile", "pretrain"))
    assert (reptile.inner_lr, reptile.inner_steps, reptile.inner_batch) == (0.2, 3, 4)
    assert (pretrain.inner_lr, pretrain.inner_steps, pretrain.inner_batch) == (0.2, 0, None)


def test_a_method_without_a_definition_gets_a_line_beside_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(definitions.REFERENCES, ProtoNet)
    assert cli.main(["check", "algo=fomaml,protonet,random", "device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "fomaml            mlp" in out and "1 right, 0 wrong" in out
    assert "protonet: not checked, it has no definition: write its meta-gradient the long way and add it to REF" in out
    assert "random: not checked, it has no meta-gradient\n" in out


def test_a_check_that_checks_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(definitions.REFERENCES, ProtoNet)
    assert cli.main(["check", "algo=protonet", "device=cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("metarun: error: protonet: not checked, it has no definition")
