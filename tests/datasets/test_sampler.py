from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metarun import config
from metarun.core import rng
from metarun.core.episode import Episode, TaskFigure, View
from metarun.datasets.base import Split, task_keys
from metarun.datasets.sampler import ClassPool, Rotations
from metarun.errors import UserError


def pool(rotations: Rotations = Rotations.none, classes: int = 30, instances: int = 8, channels: int = 1) -> ClassPool:
    """Each pixel says which class and instance it is of: class in the top left corner, instance beside it."""
    images = np.zeros((classes, instances, channels, 4, 4), np.uint8)
    images[:, :, :, 0, 0] = np.arange(classes)[:, None, None] + 100
    images[:, :, :, 0, 1] = np.arange(instances)[None, :, None] + 50
    splits = {Split.train: list(range(18)), Split.val: list(range(18, 24)), Split.test: list(range(24, 30))}
    flat = images.reshape(-1, *images.shape[2:])
    return ClassPool(flat, [instances] * classes, splits, rotations, torch.device("cpu"), {})


def corner(x: torch.Tensor, column: int) -> torch.Tensor:
    return (x[..., 0, 0, column] * 255).round().long() - (100 if column == 0 else 50)


def test_shapes_and_labels() -> None:
    episode = pool(channels=3).sample(Split.train, 0, range(7), way=5, shot=2, query=3)
    assert episode.support_x.shape == (7, 10, 3, 4, 4) and episode.query_x.shape == (7, 15, 3, 4, 4)
    assert episode.support_x.dtype == torch.float32 and episode.support_y.dtype == torch.int64
    assert episode.support_y[3].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert episode.query_y[0].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert len(set(episode.key.tolist())) == 7


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_one_or_three_channels_can_be_seen(channels: int) -> None:
    tasks = pool(channels=channels)
    figure = TaskFigure.images if channels in (1, 3) else TaskFigure.none
    assert tasks.figure is tasks.seen(View.pooled).figure is figure


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
    image = pool(Rotations.per_task).pools[Split.train].images[0, 0]
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


def test_rotations_as_classes_everywhere_multiply_every_split() -> None:
    tasks = pool(Rotations.as_classes_everywhere)
    assert [tasks.classes(split) for split in Split] == [72, 24, 24]
    for split in Split:
        episode = tasks.sample(split, 0, range(200), 6, 1, 1)
        assert turn_of(episode.support_x).unique().tolist() == [0, 1, 2, 3]
        assert torch.equal(turn_of(episode.support_x), turn_of(episode.query_x))  # one of a class in a task


def test_too_few_classes_or_images_are_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match="way=7: the test split has only 6 classes"):
        pool().check(Split.test, way=7, shot=1, query=1)
    with pytest.raises(UserError, match=r"4 support \+ 5 query .* \(train\) are 9, but class 0 has only 8"):
        pool().check(Split.train, way=5, shot=4, query=5)
    pool().check(Split.train, way=18, shot=4, query=4)


def equal_classes(pool: ClassPool, split: Split, seed: int, indices: range, way: int, shot: int, query: int) -> Episode:
    """How tasks were first drawn, when every class had to have as many images: published numbers hang on it."""
    classes = len(pool.pools[split].counts)
    images = pool.pools[split].images.unflatten(0, (classes, -1))
    turned_too = pool.rotations is Rotations.as_classes_everywhere or (
        pool.rotations is Rotations.as_classes and split is Split.train
    )
    key = task_keys(seed, split, indices, pool.device)
    chosen = rng.permutation(rng.fold(key, 0), classes * (4 if turned_too else 1))[:, :way]
    of_class = rng.fold(rng.fold(key, 1)[:, None], torch.arange(way))
    instance = rng.permutation(of_class, images.shape[1])[:, :, : shot + query]
    turn = chosen // classes
    if pool.rotations is Rotations.per_task:
        turn = rng.integers(rng.fold(key, 2), way, below=4)
    x = images[(chosen % classes)[..., None], instance]
    for t in range(len(indices)):
        for n in range(way):
            x[t, n] = torch.rot90(x[t, n], int(turn[t, n]), (-2, -1))
    x = x.to(torch.float32) / 255
    label = torch.arange(way)
    return Episode(
        x[:, :, :shot].flatten(1, 2),
        label.repeat_interleave(shot).expand(len(indices), -1),
        x[:, :, shot:].flatten(1, 2),
        label.repeat_interleave(query).expand(len(indices), -1),
        rng.fold(key, 3),
    )


def assert_tasks_are_the_first_ones(tasks: ClassPool, way: int, shot: int, query: int) -> None:
    for split in Split:
        for seed, indices in ((0, range(12)), (7, range(95, 103))):
            arguments = (split, seed, indices, way, shot, query)
            for got, want in zip(tasks.sample(*arguments), equal_classes(tasks, *arguments), strict=True):
                assert torch.equal(got, want)


@pytest.mark.parametrize("rotations", Rotations)
def test_tasks_of_equal_classes_stay_what_they_were(rotations: Rotations) -> None:
    assert_tasks_are_the_first_ones(pool(rotations, instances=20), way=5, shot=3, query=17)


def test_glyphs_tasks_stay_what_they_were() -> None:
    tasks = config.compose([])[0].dataset.load(Path("unused"), torch.device("cpu"))
    assert isinstance(tasks, ClassPool)
    assert_tasks_are_the_first_ones(tasks, way=20, shot=1, query=5)


def test_omniglot_tasks_stay_what_they_were(data_root: Path) -> None:
    tasks = config.compose(["dataset=omniglot"])[0].dataset.load(data_root, torch.device("cpu"))
    assert isinstance(tasks, ClassPool)
    assert_tasks_are_the_first_ones(tasks, way=5, shot=1, query=15)


COUNTS = [3, 9, 5, 7, 4]  # of a pool whose classes differ in size


def ragged() -> ClassPool:
    """Classes 4, 1 and 2 are for training, 3 and 0 for test. The first pixel says the class, the next the instance."""
    images = np.zeros((sum(COUNTS), 1, 2, 2), np.uint8)
    images[:, 0, 0, 0] = np.repeat(np.arange(5), COUNTS)
    images[:, 0, 0, 1] = np.concatenate([np.arange(count) for count in COUNTS])
    splits = {Split.train: [4, 1, 2], Split.val: [], Split.test: [3, 0]}
    return ClassPool(images, COUNTS, splits, Rotations.none, torch.device("cpu"), {}, names=list("abcde"))


def marks(x: torch.Tensor) -> torch.Tensor:
    """[..., 2]: class and instance."""
    return (x[..., 0, 0, :] * 255).round().long()


def test_every_image_of_a_smaller_class_is_drawn_equally_often_and_no_other() -> None:
    tasks = ragged()
    for split, way in ((Split.train, 3), (Split.test, 2)):
        episode = tasks.sample(split, 0, range(2000), way, 1, 2)
        drawn = torch.cat([episode.support_x.unflatten(1, (way, 1)), episode.query_x.unflatten(1, (way, 2))], 2)
        classes, instances = marks(drawn)[..., 0].flatten(0, 1)[..., 0], marks(drawn)[..., 1].flatten(0, 1)
        assert all(len(set(row.tolist())) == 3 for row in instances)
        for c in set(classes.tolist()):
            often = instances[classes == c].flatten().bincount(minlength=COUNTS[c])
            assert len(often) == COUNTS[c]
            expected = 3 * 2000 / COUNTS[c]
            assert (often - expected).abs().max() < 5 * expected**0.5
    assert not tasks.has(Split.val)


def test_the_class_that_is_too_small_is_named() -> None:
    ragged().check(Split.train, way=3, shot=2, query=2)
    with pytest.raises(UserError, match=r"2 support \+ 3 query .*\(train\) are 5, but class e has only 4; lower"):
        ragged().check(Split.train, way=3, shot=2, query=3)
    with pytest.raises(UserError, match="class a has only 3"):
        ragged().check(Split.test, way=2, shot=2, query=2)


def test_fixed_labels_are_the_classes_of_every_task() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    splits = {Split.train: [0, 1], Split.val: [], Split.test: [2, 3]}
    counts, cpu = [2, 3, 3, 4], torch.device("cpu")
    tasks = ClassPool(images, counts, splits, Rotations.none, cpu, {}, fixed_labels=True)
    for split, classes in ((Split.train, ([0, 1], [2, 3, 4])), (Split.test, ([5, 6, 7], [8, 9, 10, 11]))):
        episode = tasks.sample(split, 0, range(100), 2, 1, 1)
        drawn = torch.cat([episode.support_x, episode.query_x]).mul(255).round().long().unflatten(1, (2, 1)).flatten(2)
        assert [sorted(drawn[:, c].unique().tolist()) for c in range(2)] == [*map(list, classes)]
        assert episode.query_y.unique(dim=0).tolist() == [[0, 1]]
    with pytest.raises(UserError, match="way=1: must be 2"):
        tasks.check(Split.train, 1, 1, 1)
