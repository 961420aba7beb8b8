"""Meta-gradients the long way: one task at a time, with ``torch.autograd``, to hold the package's against.

No line of ``hypergrad.py`` or ``over_tasks.py`` is in them, and of ``inner.py`` the order of mini-batches alone.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from metarun.algorithms.imaml import IMAML, Descent
from metarun.algorithms.maml import MAML, Derivative
from metarun.algorithms.mamlpp import MAMLpp
from metarun.algorithms.mann import MANN
from metarun.algorithms.meta_sgd import MetaSGD
from metarun.algorithms.oracle import Oracle
from metarun.algorithms.pretrain import Pretrain
from metarun.algorithms.protonet import ProtoNet
from metarun.algorithms.reptile import Reptile
from metarun.core import tree
from metarun.core.episode import Episode
from metarun.core.inner import InnerOptimizer, minibatch
from metarun.core.objective import Supervised
from metarun.core.problem import Reduction
from metarun.core.tree import Params
from metarun.verify.mann_definition import mann_reference


def step_size(algorithm: Any, meta: Params, name: str, k: int) -> Tensor | float:
    """What multiplies the gradient of one parameter in inner step k."""
    if isinstance(algorithm, MetaSGD):
        return meta[f"inner.lr.{name}"]
    if isinstance(algorithm, MAMLpp) and algorithm.learned_rates:
        return meta[f"inner.lr.{name}"][k]
    return algorithm.inner_lr


def inner_loss(algorithm: Any, problem: Supervised, params: Params, x: Tensor, y: Tensor) -> Tensor:
    """The support loss, as the method reduces it."""
    factor = problem.way if algorithm.inner_loss is Reduction.sum_over_shot else 1
    return factor * problem.loss(problem.forward(params, x), y)


def plain_descent(
    algorithm: Any, problem: Supervised, meta: Params, task: Episode, create_graph: bool, proximal: float = 0.0
) -> list[Params]:
    """The model's parameters after 0, 1, ... ``inner_steps`` steps of gradient descent, the way it is usually written.

    Without ``create_graph`` the gradients are constants.
    """
    start = {name: p for name, p in meta.items() if not name.startswith("inner.")}
    frozen = algorithm.frozen if isinstance(algorithm, MAML) else []
    kept = [pattern[1:] for pattern in frozen if pattern.startswith("!")]
    still = [n for n in start if any(fnmatchcase(n, f) for f in frozen) and not any(fnmatchcase(n, f) for f in kept)]
    moving = [name for name in start if name not in still]
    order = None
    if isinstance(algorithm, MAML) and algorithm.inner_batch is not None:
        order = [
            minibatch(task.key, len(task.support_x), algorithm.inner_batch, k) for k in range(algorithm.inner_steps)
        ]
    path = [start]
    for k in range(algorithm.inner_steps):
        params = dict(path[-1])
        at = params if create_graph else {name: p.detach().requires_grad_() for name, p in params.items()}
        x, y = (
            (task.support_x, task.support_y) if order is None else (task.support_x[order[k]], task.support_y[order[k]])
        )
        loss = inner_loss(algorithm, problem, at, x, y)
        grads = torch.autograd.grad(loss, [at[name] for name in moving], create_graph=create_graph)
        for name, g in zip(moving, grads, strict=True):
            pull = proximal * (params[name] - start[name])
            params[name] = params[name] - step_size(algorithm, meta, name, k) * (g + pull)
        path.append(params)
    return path


def query_objective(algorithm: Any, problem: Supervised, meta: Params, task: Episode, create_graph: bool) -> Tensor:
    """What MAML and its relatives minimise for one task."""
    path = plain_descent(algorithm, problem, meta, task, create_graph)
    losses = [problem.loss(problem.forward(params, task.query_x), task.query_y) for params in path]
    if isinstance(algorithm, MAMLpp):  # MAML++, equation 3, with weights that add up to 1
        early = algorithm.multi_step / algorithm.inner_steps
        weights = [early] * (algorithm.inner_steps - 1)
        return sum((w * loss for w, loss in zip(weights, losses[1:-1], strict=True)), (1 - sum(weights)) * losses[-1])
    return losses[-1]


def maml_reference(algorithm: MAML, problem: Supervised, meta: Params, task: Episode) -> Params:
    """``torch.autograd.grad`` through an unrolled loop; with constant inner gradients for first order."""
    exact = algorithm.hypergrad is not Derivative.first_order
    leaves = {name: p.detach().requires_grad_() for name, p in meta.items()}
    loss = query_objective(algorithm, problem, leaves, task, create_graph=exact)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def imaml_reference(algorithm: IMAML, problem: Supervised, meta: Params, task: Episode) -> Params:
    """The implicit gradient (iMAML, equation 6) by a fixed-point iteration instead of conjugate gradient.

    g = ((1 + damping) I + H / lambda)^-1 q is where g <- (q - H g / lambda) / (1 + damping) ends, which closes in by
    |H| / lambda a step; ``small`` chooses a lambda that is larger than |H|.
    """
    jointly = algorithm.descent is Descent.joint
    strength = algorithm.proximal if jointly else 0.0
    adapted = plain_descent(algorithm, problem, meta, task, create_graph=False, proximal=strength)[-1]
    if not jointly:
        kept = 1 - algorithm.inner_lr * algorithm.proximal
        adapted = {name: meta[name] + kept * (p - meta[name]) for name, p in adapted.items()}
    leaves = {name: p.detach().requires_grad_() for name, p in adapted.items()}
    query = problem.loss(problem.forward(leaves, task.query_x), task.query_y)
    q = torch.autograd.grad(query, list(leaves.values()))
    support = inner_loss(algorithm, problem, leaves, task.support_x, task.support_y)
    slopes = torch.autograd.grad(support, list(leaves.values()), create_graph=True)
    g, stiffness = list(q), algorithm.proximal + algorithm.lam_damping
    for _ in range(60):
        product = torch.autograd.grad(slopes, list(leaves.values()), g, retain_graph=True)
        g = [(a - h / stiffness) / (1 + algorithm.cg_damping) for a, h in zip(q, product, strict=True)]
    return dict(zip(leaves, g, strict=True))


def reptile_reference(algorithm: Reptile, problem: Supervised, meta: Params, task: Episode) -> Params:
    """Start minus end of torch's own optimiser on the same mini-batches (no handed-on moments)."""
    params = {name: p.detach().clone().requires_grad_() for name, p in meta.items() if not name.startswith("inner.")}
    leaves = list(params.values())
    if algorithm.inner_optimizer is InnerOptimizer.adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            leaves, lr=algorithm.inner_lr, betas=(0.0, algorithm.beta2), eps=algorithm.eps
        )
    else:
        optimizer = torch.optim.SGD(leaves, lr=algorithm.inner_lr)
    examples = len(task.support_x)
    for k in range(algorithm.inner_steps):
        batch = minibatch(task.key, examples, min(algorithm.inner_batch or examples, examples), k)
        x, y = task.support_x[batch], task.support_y[batch]
        loss = inner_loss(algorithm, problem, params, x, y)
        for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = grad
        optimizer.step()
    return {name: meta[name] - p.detach() for name, p in params.items()}


def pretrain_reference(algorithm: Pretrain, problem: Supervised, meta: Params, task: Episode) -> Params:
    """The gradient of the mean loss over all of the task's examples."""
    leaves = {name: p.detach().requires_grad_() for name, p in meta.items() if not name.startswith("inner.")}
    x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
    loss = torch.nn.functional.cross_entropy(problem.forward(leaves, x), y)
    return tree.zeros_like(meta) | dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def protonet_reference(algorithm: ProtoNet, problem: Supervised, meta: Params, task: Episode) -> Params:
    """Cross-entropy of minus the squared distances to the class means, in the space that the head takes in."""
    body = {name: p.detach().requires_grad_() for name, p in meta.items() if not name.startswith("head.")}
    width = meta["head.weight"].shape[1]
    bare = {"head.weight": torch.eye(width).to(task.support_x), "head.bias": torch.zeros(width).to(task.support_x)}
    support, query = (problem.forward({**body, **bare}, x) for x in (task.support_x, task.query_x))
    centres = torch.stack([support[task.support_y == n].mean(0) for n in range(problem.outputs)])
    distances = torch.cdist(query, centres).square()
    loss = torch.nn.functional.cross_entropy(-distances, task.query_y)
    return tree.zeros_like(meta) | dict(zip(body, torch.autograd.grad(loss, list(body.values())), strict=True))


REFERENCES: dict[type, Callable[..., Params]] = {
    MAML: maml_reference,
    MetaSGD: maml_reference,
    MAMLpp: maml_reference,
    IMAML: imaml_reference,
    Reptile: reptile_reference,
    Pretrain: pretrain_reference,
    Oracle: pretrain_reference,
    ProtoNet: protonet_reference,
    MANN: mann_reference,
}
