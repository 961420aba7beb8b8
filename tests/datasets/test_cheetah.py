from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.core import rng
from metarun.core.rollout import Environment, rollout
from metarun.datasets import acting
from metarun.datasets.base import Split
from metarun.datasets.cheetah import LOST, Bodies, Cheetah, CheetahTasks, HalfCheetahs, Protocol
from metarun.datasets.half_cheetah import LEGS, MASS, description, model
from metarun.errors import ConfigError, UserError
from tests.support.commands import Command

mujoco = pytest.importorskip("mujoco", reason="needs pip install 'metarun[mujoco]', which the dev extra contains")
CPU = torch.device("cpu")
FAMILIES = ["cheetah_velocity", "cheetah_direction"]
KEYS = rng.bits(rng.root(7), 12).view(3, 4)


@cache
def settings_of(name: str) -> Cheetah:
    x = config.compose([f"dataset={name}"])[0]
    assert isinstance(x.dataset, Cheetah)
    return x.dataset


def family(name: str = "cheetah_velocity", **settings: Any) -> CheetahTasks:
    tasks = replace(settings_of(name), **settings).load(Path(), CPU)
    assert isinstance(tasks, CheetahTasks)
    return tasks


def actions(steps: int, *shape: int) -> Tensor:
    return 1.5 * torch.randn(steps, *shape, 6, generator=torch.Generator().manual_seed(3))


def run(environment: Environment, facts: Tensor, keys: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Observations [H + 1, T, M, O] and rewards [H, T, M]."""
    state = environment.reset(facts, keys)
    seen, rewards = [environment.observe(state)], []
    for action in drawn:
        state, reward, done = environment.step(facts, state, action)
        assert not done.any()
        seen.append(environment.observe(state))
        rewards.append(reward)
    return torch.stack(seen), torch.stack(rewards)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory, and prints, where it has anything to say."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.glob("MUJOCO*"))
    assert "WARNING" not in "".join(capfd.readouterr())


def with_sensors() -> Any:
    """The same body with MuJoCo's own sensors of the centre of mass."""
    sensors = '<sensor><subtreecom body="torso"/><subtreelinvel body="torso"/></sensor></mujoco>'
    compiled = mujoco.MjModel.from_xml_string(description().replace("</mujoco>", sensors))
    mujoco.mj_setTotalmass(compiled, MASS)
    mujoco.mj_setConst(compiled, mujoco.MjData(compiled))
    return compiled


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_plain_loop_over_one_body_sees_the_same(name: str, protocol: Protocol) -> None:
    tasks = family(name, protocol=protocol)
    facts = torch.tensor([[1.0], [-1.0], [0.3]]) if name == "cheetah_direction" else torch.tensor([[0.2], [1.0], [1.9]])
    drawn = actions(60, 3, 4)
    seen, rewards = run(tasks.environment, facts, KEYS, drawn)
    first = protocol.reset(KEYS).double().numpy()
    body = with_sensors()
    for t, m in [(0, 0), (1, 3), (2, 2)]:
        data, goal = mujoco.MjData(body), float(facts[t, 0])
        data.qpos[:], data.qvel[:] = first[t, m, :9], first[t, m, 9:]
        for step in range(len(drawn)):
            mujoco.mj_forward(body, data)
            after = numpy.concatenate([data.qpos[1:], data.qvel, data.sensordata[:3]])[: seen.shape[-1]]
            numpy.testing.assert_allclose(seen[step, t, m], after, rtol=0, atol=1e-12)
            control, x = drawn[step, t, m].clamp(-1, 1).double().numpy(), data.qpos[0]
            data.ctrl[:] = control
            data.qacc_warmstart[:] = 0  # where the solver begins; with its last solution bodies differ by its tolerance
            mujoco.mj_step(body, data, nstep=1 if protocol is Protocol.rllab else 5)
            mujoco.mj_forward(body, data)
            if protocol is Protocol.rllab:
                velocity, cost = data.sensordata[3], 0.05
            else:
                velocity, cost = (data.qpos[0] - x) / 0.05, 0.1
            gain = goal * velocity if name == "cheetah_direction" else -abs(velocity - goal)
            assert rewards[step, t, m].item() == pytest.approx(gain - cost * (control**2).sum(), abs=1e-11)


def test_the_body_is_that_of_rllab_and_gymnasium() -> None:
    """Numbers of MuJoCo's for their file, of which ours has none."""
    body = model()
    masses = [6.2502092, 1.5435146, 1.5874477, 1.0953975, 1.4380753, 1.2008368, 0.8845188]
    numpy.testing.assert_allclose(body.body_mass[1:], masses, atol=1e-7)
    assert body.body_mass.sum() == pytest.approx(MASS, abs=1e-12)
    assert (body.nq, body.nv, body.nu, body.ngeom, body.opt.timestep) == (9, 9, 6, 9, 0.01)
    assert body.actuator_gear[:, 0].tolist() == [120, 90, 60, 120, 60, 30]
    limits = [(-0.52, 1.05), (-0.785, 0.785), (-0.4, 0.785), (-1, 0.7), (-1.2, 0.87), (-0.5, 0.5)]
    assert [tuple(limit) for limit in body.jnt_range[3:]] == limits
    assert body.jnt_stiffness.tolist() == [0, 0, 0, 240, 180, 120, 180, 120, 60]
    assert body.dof_damping.tolist() == [0, 0, 0, 6, 4.5, 3, 4.5, 3, 1.5]
    assert body.dof_armature.tolist() == [0, 0, 0] + [0.1] * 6
    assert (body.geom_friction == [0.4, 0.1, 0.1]).all() and (body.geom_solimp == [0, 0.8, 0.01, 0.5, 2]).all()
    assert body.geom_conaffinity.tolist() == [1] + [0] * 8
    assert [body.actuator(i).name for i in range(6)] == [part.name for part in LEGS]


@pytest.mark.parametrize("protocol", Protocol)
def test_reset_noise(protocol: Protocol) -> None:
    drawn = protocol.reset(rng.bits(rng.root(1), 20000)).double()
    joints, speeds = drawn[:, :9], drawn[:, 9:]
    ours = protocol is Protocol.rllab
    torch.testing.assert_close(
        joints.std(0), torch.full((9,), 0.01 if ours else 0.2 / 12**0.5).double(), rtol=0.03, atol=0
    )
    torch.testing.assert_close(speeds.std(0), torch.full((9,), 0.1).double(), rtol=0.03, atol=0)
    assert drawn.mean(0).abs().max() < 0.004
    assert (joints.abs().max() > 0.03) == ours or (not ours and joints.abs().max() <= 0.1)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.04


@pytest.mark.parametrize("protocol", Protocol)
def test_bits_do_not_depend_on_threads_or_on_the_batch(protocol: Protocol) -> None:
    environment = family(protocol=protocol).environment
    facts, keys = torch.rand(9, 1), rng.bits(rng.root(1), 9 * 5).view(9, 5)
    drawn = actions(30, 9, 5)
    whole = run(environment, facts, keys, drawn)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        threaded = run(environment, facts, keys, drawn)
    finally:
        torch.set_num_threads(before)
    parts = [run(environment, facts[i:j], keys[i:j], drawn[:, i:j]) for i, j in ((0, 1), (1, 5), (5, 9))]
    single = [run(environment, facts, keys[:, m : m + 1], drawn[:, :, m : m + 1]) for m in range(5)]
    for at in range(2):
        assert torch.equal(whole[at], threaded[at])
        assert torch.equal(whole[at], torch.cat([part[at] for part in parts], 1))
        assert torch.equal(whole[at], torch.cat([part[at] for part in single], 2))


@pytest.mark.parametrize("protocol", Protocol)
def test_a_policy_that_diverges_is_nan_from_then_on_and_alone(protocol: Protocol) -> None:
    environment = family(protocol=protocol).environment
    facts, drawn = torch.ones(3, 1), actions(6, 3, 4)
    seen, rewards = run(environment, facts, KEYS, drawn)
    drawn[2, 1, :, 5] = torch.nan
    drawn[3, 2, 0] = torch.inf  # is clipped
    broken, paid = run(environment, facts, KEYS, drawn)
    assert torch.equal(paid[:, 0], rewards[:, 0]) and torch.equal(broken[:, 0], seen[:, 0])
    assert torch.equal(paid[:2, 1], rewards[:2, 1]) and paid[2:, 1].isnan().all()
    assert broken[:3, 1].isfinite().all() and broken[3:, 1, :, :17].isnan().all()
    assert paid[:, 2].isfinite().all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("protocol", Protocol)
def test_a_body_that_mujoco_gives_up_is_nan_and_not_put_back(protocol: Protocol, threads: int) -> None:
    """MuJoCo goes on from its first state, which would look like a body that is well."""
    environment = family(protocol=protocol).environment
    assert isinstance(environment, HalfCheetahs)
    facts = torch.ones(20, 1)
    state = environment.reset(facts, rng.bits(rng.root(1), 40).view(20, 2))
    fast = state.physics.copy()
    spin = numpy.random.RandomState(0).uniform(-1, 1, (19, 2, 9))
    fast[1:, :, 10:] = spin * numpy.array([LOST, 1e12])[:, None]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        moved, reward, _ = environment.step(facts, Bodies(fast, *state[1:]), torch.zeros(20, 2, 6))
    finally:
        torch.set_num_threads(before)
    assert reward[0].isfinite().all() and numpy.isfinite(moved.physics[0]).all()
    assert reward[1:, 1].isnan().all() and numpy.isnan(moved.physics[1:, 1]).all()
    assert (numpy.isnan(moved.physics[1:, 0]).all(-1) | (abs(moved.physics[1:, 0, 10:]) <= LOST).all(-1)).all()
    assert numpy.isnan(moved.physics[1:, 0, 0]).any()


def test_goals() -> None:
    velocity, direction = (family(name).sample(Split.test, 0, range(40), 5, 2, 2) for name in FAMILIES)
    published = torch.tensor(numpy.random.RandomState(1).uniform(0, 2, 40)).float()
    assert torch.equal(velocity.facts[:, 0], published) and family().most(Split.test) == 40
    assert direction.facts.unique(return_counts=True)[1].tolist() == [22, 18]
    assert torch.equal(direction.facts[:, 0] > 0, published >= 1)
    for name, spread in (("cheetah_velocity", 2 / 12**0.5), ("cheetah_direction", 1.0)):
        for split, goals in ((Split.train, acting.TestGoals.finn2017), (Split.test, acting.TestGoals.drawn)):
            tasks = family(name, test_goals=goals)
            facts = tasks.sample(split, 3, range(4000), 5, 1, 1).facts
            assert facts.std().item() == pytest.approx(spread, rel=0.03) and tasks.most(split) is None
            assert torch.equal(facts[7:9], tasks.sample(split, 3, range(7, 9), 5, 1, 1).facts)
            assert not torch.equal(facts, tasks.sample(split, 4, range(4000), 5, 1, 1).facts)
    assert 0 <= family().sample(Split.train, 0, range(4000), 5, 1, 1).facts.min() < 0.01


def test_the_stamp_tells_protocols_and_versions_apart() -> None:
    ours, theirs = family().stamp, family(protocol=Protocol.gymnasium).stamp
    assert ours["simulator"] == f"MuJoCo {mujoco.__version__}"
    assert (ours["frame_skip"], theirs["frame_skip"]) == ("1 of 0.01 s", "5 of 0.01 s")
    differ = {key for key in ours if ours[key] != theirs[key]}
    assert differ == {"protocol", "frame_skip", "velocity", "control_cost", "reset_noise", "observation"}
    assert (family().input_shape, family(protocol=Protocol.gymnasium).input_shape) == ((20,), (17,))


def test_trajectories_have_the_parameters_type_and_run_to_the_horizon() -> None:
    tasks = family(horizon=5)
    params = {"w": torch.zeros(3, 12, 20)}
    played = rollout(tasks.environment, lambda p, x: x @ p["w"].T, params, torch.ones(3, 1), KEYS)
    assert played.reward.shape == (3, 4, 5) and played.reward.dtype == torch.float32
    assert (played.valid == 1).all() and (played.reward < 0).all()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dataset.horizon=0", "dataset.horizon=0: must be >= 1"),
        ("dataset.protocol=gym", "dataset.protocol=gym: must be one of rllab, gymnasium"),
        ("dataset.frame_skip=5", "dataset.frame_skip"),
        ("dataset.test_goals=all", "dataset.test_goals=all: must be one of finn2017, drawn"),
    ],
)
def test_refused(word: str, said: str) -> None:
    with pytest.raises((ConfigError, UserError), match=said):
        config.compose(["dataset=cheetah_velocity", word])


@pytest.mark.parametrize(("found", "said"), [(None, "needs MuJoCo"), ("old", "needs MuJoCo 3.2.7 or later, not")])
def test_a_missing_or_old_mujoco_is_one_line_with_the_command(
    found: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if found is None:
        monkeypatch.setitem(sys.modules, "mujoco", None)
    else:
        import mujoco.rollout

        monkeypatch.delattr(mujoco.rollout, "Rollout")
    with pytest.raises(UserError, match=said) as error:
        family()
    assert str(error.value).endswith("pip install 'metarun[mujoco]'") and "\n" not in str(error.value)


@pytest.mark.full
def test_two_real_steps(metarun: Command, tmp_path: Path) -> None:
    small = ["steps=2", "meta_batch=2", "shot=2", "query=2", "dataset.horizon=5", "model.hidden=[8]", "eval.tasks=2"]
    small += ["eval.every=0", "eval.shot=2", "eval.query=2", "run_dir=run"]
    done = metarun("train", "dataset=cheetah_direction", *small)
    assert done.returncode == 0, done.stderr
    assert "MuJoCo" in (tmp_path / "run" / "report.md").read_text()
