"""Nodes of OmegaConf, without reading their values. Last seen in omegaconf 2.3.1."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig


def node_of(cfg: DictConfig, name: str) -> Any:
    """Return the node with this name, also if its value is missing or cannot be resolved."""
    return cfg._get_node(name)


def has_keys(node: Any) -> bool:
    """Return whether a node is a group of keys, neither missing nor null."""
    return isinstance(node, DictConfig) and not node._is_missing() and not node._is_none()
