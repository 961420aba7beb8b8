from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from metarun import config
from metarun.algorithms.maml import MAML, Derivative
from metarun.core.episode import Episode
from metarun.core.meta import Meta
from metarun.core.objective import classification
from metarun.engine.meta_gradient import MetaGradient
from metarun.errors import UserError
from metarun.models.base import functional, initialise
from metarun.models.resnet18 import ResNet18
from metarun.verify import check, problems
from metarun.verify.problems import Case

pytestmark = pytest.mark.full

SIDE = 40  # the last block then sees 2x2 positions; one position, of two images, would magnify rounding
ENGINES = check.engines(torch.device("cpu"))
PATHS = ["loop", "vmap", "native" if "native" in ENGINES else "grouped"]


def maml(derivative: Derivative) -> MAML:
    algorithm = config.compose(["algo=maml"])[0].algo
    assert isinstance(algorithm, MAML)
    return dataclasses.replace(algorithm, hypergrad=derivative, inner_lr=0.05, inner_steps=2)


@functools.cache
def case() -> Case:
    """Two tasks of two classes, one image of each for support and one for query, in float64."""
    module = initialise(ResNet18(), (3, SIDE, SIDE), 2, seed=0).double()
    meta = Meta.of({name: p.detach() for name, p in module.named_parameters()})
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    y = torch.arange(2).expand(2, -1)
    return Case("resnet18", classification(functional(module), 2), meta, Episode(x[:, :2], y, x[:, 2:], y, y[0]))


@functools.cache
def reference() -> Meta:
    """A plain ``torch.autograd`` loop with double backward."""
    return check.reference(maml(Derivative.store), case())


@pytest.mark.sampled(0, 2)
@pytest.mark.parametrize("derivative", [Derivative.store, Derivative.recompute])
@pytest.mark.parametrize("path", PATHS)
def test_its_meta_gradient_is_the_plain_loops(path: str, derivative: Derivative) -> None:
    """torchvision's blocks write in place, which must stay right under nested transforms and custom functions."""
    meta_gradient = MetaGradient(ENGINES[path][0], maml(derivative), case().problem)
    got, metrics = meta_gradient(case().meta, case().episodes)
    assert problems.relative_error(got, reference()) < 1e-10
    assert metrics["loss"].shape == (2,)


def test_names_and_sizes() -> None:
    params = dict(initialise(ResNet18(), (3, 32, 32), 1000, seed=0).named_parameters())
    assert sum(p.numel() for p in params.values()) == 11_689_512  # what torchvision documents
    assert list(params)[-2:] == ["head.weight", "head.bias"] and params["head.weight"].shape == (1000, 512)
    assert all(name.startswith(("body.", "head.")) for name in params)
    other = dict(initialise(ResNet18(), (3, 32, 32), 1000, seed=1).named_parameters())
    assert all(not torch.equal(params[name], other[name]) for name in params if "conv" in name)


@pytest.mark.parametrize("shape", [(1, 17, 17), (3, 17, 40), (1, 28, 28), (3, 33, 33), (5, 64, 64)])
def test_grey_and_colour_images_of_many_sizes(shape: tuple[int, ...]) -> None:
    module = initialise(ResNet18(), shape, 5, seed=0)
    out = module(torch.rand(4, *shape))
    assert out.shape == (4, 5) and out.isfinite().all()
    spread = module.get_parameter("body.conv1.weight").std().item()
    assert spread == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)  # He's, also where the layer was exchanged


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"model=resnet18 needs images.*\(1,\); use model=mlp"):
        initialise(ResNet18(), (1,), 5, 0)
    with pytest.raises(UserError, match=r"images of \(16, 40\) are too small, 17 pixels"):
        initialise(ResNet18(), (3, 16, 40), 5, 0)
