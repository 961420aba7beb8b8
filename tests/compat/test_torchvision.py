from __future__ import annotations

import socket

import pytest

from metarun.compat.torchvision import impatient, torchvision


def test_torchvision_imports_beside_any_torch() -> None:
    module = torchvision()
    assert module.datasets.Omniglot is torchvision().datasets.Omniglot
    assert hasattr(module.models, "resnet18")


def test_an_impatient_download_leaves_other_sockets_as_they_were() -> None:
    before = socket.getdefaulttimeout()
    with pytest.raises(OSError, match="no network"), impatient(7):
        assert socket.getdefaulttimeout() == 7
        raise OSError("no network")
    assert socket.getdefaulttimeout() == before
