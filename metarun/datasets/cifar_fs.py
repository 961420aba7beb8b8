"""CIFAR-FS: Bertinetto et al. 2019, "Meta-learning with differentiable closed-form solvers"; CIFAR-100 in 64/16/20."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metarun.datasets.about import About
from metarun.datasets.cifar100 import Cifar100, about_cifar100


@dataclass(kw_only=True, slots=True)
class CifarFS(Cifar100):
    """CIFAR-100 with classes drawn at random for meta-training, validation and test."""

    about: ClassVar[About | None] = about_cifar100(
        "Bertinetto, Henriques, Torr and Vedaldi 2019, Meta-learning with differentiable closed-form solvers",
        "64/16/20 classes",
    )
