"""2D navigation: the environment against a scalar loop, its tasks, and runs on it."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from metarun import config
from metarun.core import rng
from metarun.core.rollout import rollout
from metarun.datasets.base import Split
from metarun.datasets.navigation import Goals, Plane
from metarun.errors import UserError
from metarun.runs.setup import build

SMALL = ["meta_batch=3", "shot=4", "query=5", "eval.shot=6", "eval.query=7", "dataset.horizon=12", "model.hidden=[8]"]


def goals(*words: str) -> Goals:
    tasks = build(config.compose(["dataset=navigation", *words])[0]).tasks
    assert isinstance(tasks, Goals)
    return tasks


def test_the_environment_is_a_scalar_loop() -> None:
    """Scaled and clipped actions, distance after the move, done as a box: bit for bit in float64."""
    generator = torch.Generator().manual_seed(0)
    targets = 0.3 * torch.randn(4, 2, generator=generator, dtype=torch.float64)
    targets[3] *= 20  # too far away for this horizon

    def forward(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.cat([9 * (params["goal"] - x), torch.full_like(x, math.log(0.1))], -1)

    keys = torch.arange(12).view(4, 3)
    played = rollout(Plane(40), forward, {"goal": targets}, targets, keys)
    lengths = []
    for task in range(4):
        for m in range(3):
            x, y, n = 0.0, 0.0, 0
            for t in range(40):
                assert played.observation[task, m, t].tolist() == [x, y]
                ax, ay = played.action[task, m, t].tolist()
                x, y, n = x + 0.1 * min(max(ax, -1), 1), y + 0.1 * min(max(ay, -1), 1), n + 1
                dx, dy = x - targets[task, 0].item(), y - targets[task, 1].item()
                assert played.reward[task, m, t].item() == pytest.approx(-math.hypot(dx, dy), abs=1e-15)
                if abs(dx) < 0.01 and abs(dy) < 0.01:
                    break
            lengths.append(n)
            assert played.valid[task, m].tolist() == [1.0] * n + [0.0] * (40 - n)
            assert not any(part[task, m, n:].any() for part in played)
    assert min(lengths) < 40 == max(lengths), "some episodes reach the goal and some do not"


def test_noise_is_of_the_trajectory_alone() -> None:
    """The same key draws the same; other keys draw others; a task in another batch stays as it was."""
    forward = lambda params, x: torch.cat([params["mean"].expand_as(x), torch.zeros_like(x)], -1)  # noqa: E731
    targets, keys = torch.rand(3, 2), rng.bits(torch.arange(3), 2)
    start = {"mean": torch.zeros(3, 2)}
    together = rollout(Plane(9), forward, start, targets, keys)
    alone = rollout(Plane(9), forward, {"mean": torch.zeros(1, 2)}, targets[1:2], keys[1:2])
    for part, other in zip(together, alone, strict=True):
        assert torch.equal(part[1:2], other)
    assert not torch.equal(together.action[0, 0], together.action[0, 1])


def test_the_forty_published_goals() -> None:
    tasks = goals()
    facts = tasks.sample(Split.test, 7, range(40), 1, 2, 2).facts
    want = numpy.random.RandomState(1).uniform(-0.5, 0.5, (40, 2))
    torch.testing.assert_close(facts, torch.tensor(want, dtype=torch.float32))
    assert facts[0].tolist() == pytest.approx([-0.0830, 0.2203], abs=1e-4)
    assert facts.norm(dim=1).mean().item() == pytest.approx(0.4008, abs=1e-4)
    torch.testing.assert_close(tasks.sample(Split.test, 0, range(5, 9), 1, 2, 2).facts, facts[5:9])


def test_drawn_goals_fill_the_square_and_depend_on_their_index() -> None:
    tasks = goals("dataset.test_goals=drawn", "eval.tasks=50")
    facts = tasks.sample(Split.test, 0, range(4000), 1, 1, 1).facts
    assert facts.min() > -0.5 and facts.max() < 0.5 and facts.mean(0).abs().max() < 0.02
    assert facts.norm(dim=1).mean().item() == pytest.approx(0.3826, abs=0.01)
    assert torch.equal(tasks.sample(Split.test, 0, range(7, 9), 1, 3, 2).facts, facts[7:9])
    assert not torch.equal(tasks.sample(Split.train, 0, range(2), 1, 1, 1).facts, facts[:2])
    assert not torch.equal(tasks.sample(Split.test, 1, range(2), 1, 1, 1).facts, facts[:2])


def test_the_oracle_sees_the_goal() -> None:
    setup = build(config.compose(["dataset=navigation", "algo=oracle", *SMALL])[0])
    tasks = setup.tasks.sample(Split.train, 0, range(3), 1, 4, 5)
    after = setup.problem.collect(
        {name: p.detach().expand(3, *p.shape) for name, p in setup.module.named_parameters()}, tasks, 0, last=True
    )
    seen, valid = after.experience[0].observation, after.experience[0].valid
    assert seen.shape == (3, 5, 12, 4)
    rows = valid[..., None] * tasks.facts[:, None, None]
    assert torch.equal(seen[..., 2:], rows)


# sigma -> return of a greedy controller with it on the 40 goals, from a simulation that is not metarun's
GREEDY = {0.2: -0.78, 0.47: -2.38, 1.0: -6.78}


@pytest.mark.parametrize("algo", ["maml", "oracle"])
def test_known_controllers_on_the_published_goals(algo: str) -> None:
    tasks = goals(f"algo={algo}")
    drawn = tasks.sample(Split.test, 0, range(40), 1, 1, 40)
    for sigma, want in GREEDY.items():
        hovering, greedy, best = tasks.yardsticks(drawn, {"sigma": sigma}).values()
        torch.testing.assert_close(hovering, -100 * drawn.facts.norm(dim=1))
        assert best.mean().item() == pytest.approx(-0.544, abs=1e-3)
        assert greedy.mean().item() == pytest.approx(want, rel=0.03)
    again = tasks.yardsticks(tasks.sample(Split.test, 0, range(7, 9), 1, 3, 40), {"sigma": 1.0})
    assert torch.equal(list(again.values())[1], greedy[7:9]), "of the task alone"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval.tasks=41"], "eval.tasks"),
        (["dataset.horizon=0"], "horizon"),
        (["dataset.discount=1.5"], "discount"),
        (["dataset.gae=-1"], "gae"),
        (["shot=0"], "shot"),
        (["model=conv4"], "model"),
        (["algo=reptile"], "algo=reptile"),
        (["algo=imaml"], "algo=imaml"),
        (["algo=mamlpp"], "algo=mamlpp"),
        (["algo=protonet"], "algo=protonet"),
        (["algo=mann", "model=mann"], "algo=mann"),
        (["algo.inner_batch=3"], "algo.inner_batch"),
    ],
)
def test_what_makes_no_sense_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        build(config.compose(["dataset=navigation", *words])[0])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("way", [4, 5])
def test_a_policy_needs_tasks_to_act_in(way: int) -> None:
    with pytest.raises(UserError, match="model=gaussian_mlp: its outputs are a policy's"):
        build(config.compose(["dataset=glyphs", "model=gaussian_mlp", f"way={way}"])[0])
