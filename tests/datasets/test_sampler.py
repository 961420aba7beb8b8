from __future__ import annotations

import numpy as np
import pytest
import torch

from metarun.datasets.base import Split
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import UserError


def pool(rotations: Rotations = Rotations.none, classes: int = 30, instances: int = 8, channels: int = 1) -> ClassPool:
    """Each pixel says which class and instance it is of: class in the top left corner, instance beside it."""
    images = np.zeros((classes, instances, channels, 4, 4), np.uint8)
    images[:, :, :, 0, 0] = np.arange(classes)[:, None, None] + 100
    images[:, :, :, 0, 1] = np.arange(instances)[None, :, None] + 50
    splits = {Split.train: list(range(18)), Split.val: list(range(18, 24)), Split.test: list(range(24, 30))}
    return ClassPool(images, splits, rotations, torch.device("cpu"), {})


def corner(x: torch.Tensor, column: int) -> torch.Tensor:
    return (x[..., 0, 0, column] * 255).round().long() - (100 if column == 0 else 50)


def test_shapes_and_labels() -> None:
    episode = pool(channels=3).sample(Split.train, 0, range(7), way=5, shot=2, query=3)
    assert episode.support_x.shape == (7, 10, 3, 4, 4) and episode.query_x.shape == (7, 15, 3, 4, 4)
    assert episode.support_x.dtype == torch.float32 and episode.support_y.dtype == torch.int64
    assert episode.support_y[3].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert episode.query_y[0].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert len(set(episode.key.tolist())) == 7


@pytest.mark.parametrize("rotations", Rotations)
def test_a_task_depends_on_seed_split_and_index_alone(rotations: Rotations) -> None:
    tasks = pool(rotations)
    whole = tasks.sample(Split.train, 3, range(20), 5, 1, 2)
    for first, last in ((0, 1), (7, 12), (19, 20)):
        part = tasks.sample(Split.train, 3, range(first, last), 5, 1, 2)
        for got, want in zip(part, whole, strict=True):
            assert torch.equal(got, want[first:last])
    for seed, split in ((4, Split.train), (3, Split.val)):
        assert not torch.equal(tasks.sample(split, seed, range(20), 5, 1, 2).support_x, whole.support_x)


def test_support_and_query_share_classes_and_no_image() -> None:
    episode = pool().sample(Split.train, 0, range(50), 5, 2, 3)
    classes = corner(torch.cat([episode.support_x.unflatten(1, (5, 2)), episode.query_x.unflatten(1, (5, 3))], 2), 0)
    assert (classes == classes[:, :, :1]).all()
    assert all(len(set(task.tolist())) == 5 for task in classes[:, :, 0])
    images = torch.cat([episode.support_x.unflatten(1, (5, 2)), episode.query_x.unflatten(1, (5, 3))], 2)
    instances = corner(images, 1).flatten(0, 1)
    assert all(len(set(row.tolist())) == 5 for row in instances)


def test_splits_never_meet() -> None:
    seen = {
        split: set(corner(pool().sample(split, 0, range(200), 5, 1, 1).support_x, 0).flatten().tolist())
        for split in Split
    }
    assert seen[Split.train] == set(range(18))
    assert seen[Split.val] == set(range(18, 24)) and seen[Split.test] == set(range(24, 30))


def test_every_label_meets_every_class() -> None:
    classes = corner(pool().sample(Split.train, 0, range(500), 5, 1, 1).support_x, 0)
    for label in range(5):
        assert (classes[:, label].bincount(minlength=18) > 5).all()


def turn_of(x: torch.Tensor) -> torch.Tensor:
    """Which corner holds the class mark: the number of quarter turns."""
    corners = torch.stack([x[..., 0, 0, 0], x[..., 0, -1, 0], x[..., 0, -1, -1], x[..., 0, 0, -1]], -1)
    return corners.argmax(-1)


def test_rotation_per_task_is_one_for_each_class_of_a_task() -> None:
    for split in Split:
        episode = pool(Rotations.per_task).sample(split, 0, range(100), 5, 1, 2)
        support, query = turn_of(episode.support_x), turn_of(episode.query_x).unflatten(1, (5, 2))
        assert (query == support[..., None]).all()
        assert (
            support.bincount(minlength=4) if support.ndim == 1 else support.flatten().bincount(minlength=4)
        ).min() > 80
    image = pool(Rotations.per_task).pools[Split.train][0, 0, 0]
    for r in range(4):
        turns = pool(Rotations.per_task).turns
        assert turns is not None
        assert torch.equal(image.flatten()[turns[r]].reshape(4, 4), torch.rot90(image, r))


def test_rotations_as_classes_multiply_training_classes_alone() -> None:
    tasks = pool(Rotations.as_classes)
    tasks.check(Split.train, way=72, shot=1, query=1)
    with pytest.raises(UserError, match="way=73: the train split has only 72 classes"):
        tasks.check(Split.train, way=73, shot=1, query=1)
    assert turn_of(tasks.sample(Split.train, 0, range(50), 5, 1, 1).support_x).unique().tolist() == [0, 1, 2, 3]
    assert turn_of(tasks.sample(Split.test, 0, range(50), 5, 1, 1).support_x).unique().tolist() == [0]


def test_too_few_classes_or_images_are_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match="way=7: the test split has only 6 classes"):
        pool().check(Split.test, way=7, shot=1, query=1)
    with pytest.raises(UserError, match=r"4 support \+ 5 query .* are 9, but a class has only 8"):
        pool().check(Split.train, way=5, shot=4, query=5)
    pool().check(Split.train, way=18, shot=4, query=4)
