from __future__ import annotations

import socket
from pathlib import Path

import pytest

from metarun.compat.torchvision import impatient, nothing_left, torchvision


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


@pytest.mark.parametrize("held", [False, True])
def test_a_download_that_fails_leaves_no_empty_folders(tmp_path: Path, held: bool) -> None:
    folder = tmp_path / "data/MNIST/raw"
    with pytest.raises(OSError, match="no network"), nothing_left(folder):
        folder.mkdir(parents=True)
        if held:
            (folder / "half.gz").write_text("")
        raise OSError("no network")
    assert (tmp_path / "data").exists() == held
