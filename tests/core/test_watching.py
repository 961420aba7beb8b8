"""Episodes to look at are the measured ones."""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.core.acting import ActingTask
from metarun.core.watching import Watching
from metarun.datasets.acting import ActingTasks
from metarun.datasets.base import Split
from tests.support.acting import navigation


def watch(family: ActingTasks, trajectories: int) -> tuple[Watching, ActingTask]:
    tasks = family.sample(Split.test, 0, range(3), 5, 4, 4)

    def toward_the_upper_right(params: dict[str, Tensor], seen: Tensor) -> Tensor:
        return torch.cat([params["mean"] + 0 * seen, 0 * seen - 2], -1)

    watching = Watching.of(family.problem(toward_the_upper_right, 5), trajectories)
    params = {"mean": torch.full((3, 2), 0.5)}
    return watching, watching.collect(params, watching.collect(params, tasks, 0, last=False), 1, last=True)


def test_what_is_watched_is_what_was_measured() -> None:
    watching, tasks = watch(navigation("dataset.horizon=9"), 4)
    assert len(watching.seen) == 2
    for seen, data in zip(watching.seen, tasks.experience, strict=True):
        assert seen.values.shape == (3, 4, 10, 2) and seen.words == "position"
        torch.testing.assert_close(seen.values[:, :, :-1], data.observation)
        torch.testing.assert_close(seen.gained, data.gained)
        assert seen.target is not None and torch.equal(seen.target, tasks.facts)
    assert not torch.equal(watching.seen[0].values, watching.seen[1].values), "streams of their own"


def test_fewer_are_the_first_ones_and_nothing_is_seen_behind_the_end() -> None:
    all_of_them, _ = watch(navigation("dataset.horizon=9"), 4)
    few, _ = watch(navigation("dataset.horizon=9"), 2)
    assert torch.equal(few.seen[0].values, all_of_them.seen[0].values[:, :2])

    family = navigation("dataset.horizon=9")
    tasks = family.sample(Split.test, 0, range(3), 5, 4, 4)._replace(facts=torch.full((3, 2), 0.1))

    def straight(params: dict[str, Tensor], seen: Tensor) -> Tensor:
        return torch.cat([params["mean"] + 0 * seen, 0 * seen - 14], -1)

    watching = Watching.of(family.problem(straight, 5), 1)
    watching.collect({"mean": torch.ones(3, 2)}, tasks, 0, last=True)
    (path,) = watching.seen[0].values[0]
    torch.testing.assert_close(path[:2], torch.tensor([[0.0, 0.0], [0.1, 0.1]]), atol=1e-4, rtol=0)
    assert path[2:].isnan().all(), "the first move reached the goal"
