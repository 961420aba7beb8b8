from __future__ import annotations

from metarun.vision import torchvision


def test_torchvision_imports_beside_any_torch() -> None:
    module = torchvision()
    assert module.datasets.Omniglot is torchvision().datasets.Omniglot
    assert hasattr(module.models, "resnet18")
