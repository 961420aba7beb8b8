"""The meta-gradient as most people write it: one task at a time, ``torch.autograd``, NCHW, nothing compiled.

What ``metarun bench --compare reference`` measures against. Independent of metarun's engine on purpose; it knows the
settings of its algorithms only.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call


class ReferenceLoop:
    """(tasks) -> mean query loss; leaves the mean meta-gradient in the parameters' ``grad``.

    algo: the settings of maml or fomaml. Raises ``NotImplementedError`` for another method.
    """

    def __init__(self, module: torch.nn.Module, loss: Any, way: int, algo: Any):
        if not hasattr(algo, "hypergrad"):
            raise NotImplementedError("the reference loop knows maml and fomaml")
        self.module, self.loss, self.algo = module, loss, algo
        self.inner_scale = way if algo.inner_loss.name == "sum_over_shot" else 1
        self.first_order = algo.hypergrad.name == "first_order"
        self.meta = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.adapted = [n for n in self.meta if not any(fnmatchcase(n, pattern) for pattern in algo.frozen)]

    def adapt(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        params = dict(self.meta)
        for _ in range(self.algo.inner_steps):
            loss = self.inner_scale * self.loss(functional_call(self.module, params, (x,)), y)
            create_graph = not self.first_order
            grads = torch.autograd.grad(loss, [params[n] for n in self.adapted], create_graph=create_graph)
            for name, grad in zip(self.adapted, grads, strict=True):
                params[name] = params[name] - self.algo.inner_lr * grad
        return params

    def __call__(self, episodes: Any) -> Tensor:
        self.module.zero_grad()
        tasks = list(zip(*episodes[:4], strict=True))
        losses = []
        for support_x, support_y, query_x, query_y in tasks:
            params = self.adapt(support_x, support_y)
            loss = self.loss(functional_call(self.module, params, (query_x,)), query_y) / len(tasks)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()
