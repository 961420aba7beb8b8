"""The real command line, the methods that work on images, and equal bits."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import torch

from metarun import config
from metarun.core.meta import Meta

# mann wants a network that has a state and oracle tasks that can be told; they have tests of their own
ON_IMAGES = [name for name in config.choices("algo") if name not in ("mann", "oracle")]
Command = Callable[..., subprocess.CompletedProcess[str]]


def same(one: Meta, other: Meta) -> bool:
    """Whether meta-parameters have equal names, in one order, and equal bits."""
    a, b = one.flat(), other.flat()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
