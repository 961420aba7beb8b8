"""FC100: Oreshkin et al. 2018 (TADAM); CIFAR-100 in 60/20/20 classes, which share no superclass between splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metarun.datasets.about import About
from metarun.datasets.cifar100 import Cifar100, about_cifar100


@dataclass(kw_only=True, slots=True)
class FC100(Cifar100):
    """CIFAR-100 with whole superclasses for meta-training, validation and test."""

    about: ClassVar[About | None] = about_cifar100(
        "Oreshkin, Rodriguez and Lacoste 2018, TADAM", "60/20/20 classes of 12/4/4 superclasses"
    )
