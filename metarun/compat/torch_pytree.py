"""Functions on pytrees, which torch has and does not publish. Last seen in torch 2.13."""

from torch.utils._pytree import tree_flatten, tree_iter, tree_leaves, tree_map, tree_unflatten

__all__ = ["tree_flatten", "tree_iter", "tree_leaves", "tree_map", "tree_unflatten"]
