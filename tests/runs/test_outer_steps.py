"""Runs whose outer step asks about its meta-batch: what they log, and that they go on to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metarun import config
from metarun.core import tree
from metarun.core.meta import Meta
from metarun.core.outer_step import Trial
from metarun.engine.meta_batch import MetaBatch
from metarun.errors import UserError
from metarun.runs import checkpoint, journal
from metarun.runs.owner import Owner
from metarun.runs.preflight import preflight
from metarun.runs.setup import Setup, build
from metarun.runs.signals import StopSignals
from metarun.runs.train import train
from tests.support.commands import same

SMALL = ["dataset=navigation", "dataset.horizon=5", "shot=2", "query=2", "meta_batch=3", "model.hidden=[4]"]
SMALL += ["eval.every=0", "steps=4", "checkpoint_every=2", "eval.shot=2", "eval.query=2"]
RULES = pytest.mark.parametrize("rule", ["trpo", "promp"])
FACTS = {
    "trpo": {"kl", "kl_before", "loss_before", "loss_after", "backtracks", "rejected", "step_norm"},
    "promp": {"kl", "clipped", "lr"},
}


def bench(*words: str) -> Setup:
    return build(config.compose([*SMALL, *words])[0])


def run(setup: Setup, folder: Path) -> checkpoint.TrainState:
    folder.mkdir(exist_ok=True)
    return train(setup, folder, StopSignals())


@pytest.mark.sampled(1)
@RULES
def test_a_step_is_logged_and_saved(rule: str, tmp_path: Path) -> None:
    setup = bench(f"algo.outer_optimizer={rule}")
    preflight(setup)
    state = run(setup, tmp_path)
    lines = [line for line in journal.read(tmp_path) if line["split"] == "train"]
    assert len(lines) == 4 and all(FACTS[rule] <= set(line) for line in lines)
    assert ("lr" in lines[0]) is (rule == "promp") and not same(setup.first_meta(), state.meta)
    assert all(line["kl"] <= 0.01 and abs(line["kl_before"]) < 1e-6 for line in lines if rule == "trpo")
    made = {int(moments["step"]) for moments in state.optimizer.get("state", {}).values()}
    assert made == ({20} if rule == "promp" else set()) and (rule == "promp" or state.optimizer == {})
    again = checkpoint.load(tmp_path, lambda: Owner.of(setup, None))
    assert again is not None and again.step == 4


@pytest.mark.sampled(1)
@pytest.mark.parametrize("compiled", ["false", pytest.param("auto", marks=pytest.mark.full)])  # tracing takes seconds
@RULES
def test_a_run_that_is_killed_within_its_step_goes_on_to_the_same_bits(
    rule: str, compiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"algo.outer_optimizer={rule}", f"device.compile={compiled}"]
    whole = run(bench(*words), tmp_path / "whole")
    judged, batches = MetaBatch.trial, list[MetaBatch]()

    def dies(self: MetaBatch, meta: Meta) -> Trial:
        again = self in batches
        batches.append(self)
        if len({*map(id, batches)}) == 3 and (again or rule == "promp"):  # in the third step, within the search
            raise KeyboardInterrupt
        return judged(self, meta)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetaBatch, "trial", dies)
        run(bench(*words), tmp_path / "killed")
    saved = checkpoint.load(tmp_path / "killed")
    assert saved is not None and saved.step == 2
    resumed = run(bench(*words), tmp_path / "killed")
    assert same(resumed.meta, whole.meta)
    first, second = (checkpoint.folder(tmp_path / of) / checkpoint.LAST for of in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_machine_code_of_a_step_is_trusted(tmp_path: Path) -> None:
    """At the parameters that collected the data a loss is rounding and nothing else; it is not taken for wrong."""
    run(bench("algo.outer_optimizer=trpo", "device.compile=true"), tmp_path)  # a warning would be an error


def test_a_checkpoint_of_another_rule_is_refused(tmp_path: Path) -> None:
    run(bench("steps=2", "algo.outer_optimizer=trpo"), tmp_path)
    other = bench("steps=2", "algo.outer_optimizer=promp")
    with pytest.raises(UserError, match="its outer optimiser is another"):
        checkpoint.load(tmp_path, lambda: Owner.of(other, None))


def test_a_search_that_fails_is_logged_and_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(self: MetaBatch, meta: Meta) -> Trial:
        return Trial(torch.zeros(()), torch.zeros(()))

    monkeypatch.setattr(MetaBatch, "trial", worse)
    setup = bench("steps=1", "algo.outer_optimizer=trpo")
    state = run(setup, tmp_path)
    (line,) = journal.read(tmp_path)
    assert line["rejected"] == 1 and line["backtracks"] == 15
    assert all(map(torch.equal, tree.leaves(state.meta), tree.leaves(setup.first_meta())))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset=sinusoid", "algo.outer_optimizer=trpo"], "algo.outer_optimizer=trpo: works on policies that act"),
        (["dataset=sinusoid", "algo.outer_optimizer=promp"], "algo.outer_optimizer=promp: works on policies that act"),
        (["dataset=navigation", "algo.outer_lr=1"], "algo.outer_lr=1: nothing reads it, only algo.outer_optimizer="),
        (["algo.promp.clip=0.1"], "algo.promp.clip=0.1: nothing reads it, only algo.outer_optimizer=promp would"),
        (["dataset=navigation", "algo.trust_region.max_kl=0"], r"algo.trust_region.max_kl=0.0: must be > 0"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        build(config.compose(words)[0])


def test_methods_may_say_that_their_meta_gradient_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarun.algorithms.maml.MAML.descends_query_loss", lambda self: False)
    with pytest.raises(UserError, match=r"algo\.outer_optimizer=trpo: must be adam or sgd with this method"):
        build(config.compose(["dataset=navigation"])[0])
