"""torchvision, also if its compiled half does not fit torch.

The torchvision on PyPI is built for a CUDA torch; beside a CPU-only torch its import ends with "operator
torchvision::nms does not exist". What metarun needs of it is plain Python, which works once the two operators
that the import fails on are declared. That is done here, and only if the plain import fails.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_declared: list[Any] = []  # operator libraries vanish with their last reference


def torchvision() -> ModuleType:
    """Import torchvision.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision
    return torchvision


@contextmanager
def impatient(seconds: float = 10) -> Iterator[None]:
    """Raise an error within the context if a server does not answer for this time; downloads would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Remove, after an error, ``folder`` and folders above it that were made within the context, if they are empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a folder with content stays, and those above it
            for path in made:
                if path.exists():
                    path.rmdir()
        raise
