"""Definitions of the meta-gradients: one task at a time, by ``torch.autograd``, to compare the methods with.

They use nothing of ``hypergrad.py`` and ``over_tasks.py``, and of ``inner.py`` only the order of mini-batches.

Common arguments: ``algorithm`` is the method with its settings, ``problem`` the network and its losses, ``meta`` the
meta-parameters as one flat dict (``Meta.flat``), ``task`` one task without the axis T.
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
from metarun.core.acting import Acting
from metarun.core.episode import Episode
from metarun.core.head import Head
from metarun.core.inner import InnerOptimizer, minibatch
from metarun.core.objective import Supervised
from metarun.core.problem import Problem, Reduction
from metarun.core.tree import Params
from metarun.verify.mann_definition import mann_reference
from metarun.verify.policy_definition import policy_loss


def step_size(algorithm: Any, meta: Params, name: str, k: int) -> Tensor | float:
    """Return the step size of parameter ``name`` in inner step k, a scalar or of the parameter's shape."""
    if isinstance(algorithm, MetaSGD):
        return meta[f"inner.lr.{name}"]
    if isinstance(algorithm, MAMLpp) and algorithm.learned_rates:
        return meta[f"inner.lr.{name}"][k]
    return algorithm.inner_lr


def inner_loss(algorithm: Any, problem: Supervised, params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Compute the support loss with the method's reduction."""
    factor = problem.way if algorithm.inner_loss is Reduction.sum_over_shot else 1
    return factor * problem.loss(problem.forward(params, x), y)


def support_loss(algorithm: Any, problem: Problem, params: Params, task: Any, k: int) -> Tensor:
    """Compute the loss of inner step k, on a mini-batch where the method takes one."""
    if isinstance(problem, Acting):
        return policy_loss(problem, params, task.experience[k], query=False)
    assert isinstance(problem, Supervised)
    x, y = task.support_x, task.support_y
    if isinstance(algorithm, MAML) and algorithm.inner_batch is not None:
        order = minibatch(task.key, len(x), algorithm.inner_batch, k)
        x, y = x[order], y[order]
    return inner_loss(algorithm, problem, params, x, y)


def query_loss(problem: Problem, params: Params, task: Any) -> Tensor:
    """Compute the loss on the query data."""
    if isinstance(problem, Acting):
        return policy_loss(problem, params, task.experience[-1], query=True)
    assert isinstance(problem, Supervised)
    return problem.loss(problem.forward(params, task.query_x), task.query_y)


def plain_descent(
    algorithm: Any, problem: Problem, meta: Params, task: Any, create_graph: bool, proximal: float = 0.0
) -> list[Params]:
    """Run gradient descent in a plain loop.

    Args:
        create_graph: whether the inner gradients can be differentiated. Without it they are constants.
        proximal: strength of the pull to the start (iMAML's lambda).

    Returns:
        The model's parameters after 0, 1, ... S inner steps.
    """
    start = {name: p for name, p in meta.items() if not name.startswith("inner.")}
    if isinstance(algorithm, MAML) and algorithm.head is not Head.learned:
        assert isinstance(problem, Supervised)
        made = task_head(algorithm.head, problem, start, task)
        start = {name: p.clone() for name, p in start.items()} | made  # an inner gradient takes the head for given
    frozen = algorithm.frozen if isinstance(algorithm, MAML) else []
    kept = [pattern[1:] for pattern in frozen if pattern.startswith("!")]
    still = [n for n in start if any(fnmatchcase(n, f) for f in frozen) and not any(fnmatchcase(n, f) for f in kept)]
    apart = [n for n in start if isinstance(algorithm, MAMLpp) and any(fnmatchcase(n, f) for f in algorithm.per_step)]
    moving = [name for name in start if name not in still + apart]
    path = [start]
    for k in range(algorithm.inner_steps):
        params = dict(path[-1])
        if k > 0:  # the first step has the model's own values
            params |= {name: meta[f"inner.later.{name}"][k - 1] for name in apart}
        at = params if create_graph else {name: p.detach().requires_grad_() for name, p in params.items()}
        loss = support_loss(algorithm, problem, at, task, k)
        grads = torch.autograd.grad(loss, [at[name] for name in moving], create_graph=create_graph)
        for name, g in zip(moving, grads, strict=True):
            pull = proximal * (params[name] - start[name])
            params[name] = params[name] - step_size(algorithm, meta, name, k) * (g + pull)
        path.append(params)
    return path


def task_head(head: Head, problem: Supervised, params: Params, task: Episode) -> Params:
    """Make the head that a task starts with, one class after another.

    Source:
        Triantafillou et al. 2020, Meta-dataset, section 3, for prototypes; zeros otherwise.
    """
    width = params["head.weight"].shape[1]
    bare = {"head.weight": torch.eye(width).to(task.support_x), "head.bias": torch.zeros(width).to(task.support_x)}
    embedded = problem.forward({**params, **bare}, task.support_x)
    centres = [embedded[task.support_y == n].mean(0) for n in range(problem.outputs)]
    scale = 1.0 if head is Head.prototypes else 0.0
    biases = torch.stack([-scale * (c * c).sum() for c in centres])
    return {"head.weight": torch.stack([2 * scale * c for c in centres]), "head.bias": biases}


def query_objective(algorithm: Any, problem: Problem, meta: Params, task: Any, create_graph: bool) -> Tensor:
    """Compute the query loss after adapting, which MAML and its variants minimise, for one task, a scalar."""
    path = plain_descent(algorithm, problem, meta, task, create_graph)
    losses = [query_loss(problem, params, task) for params in path]
    if isinstance(algorithm, MAMLpp):  # MAML++, equation 3, with weights that add up to 1
        early = algorithm.multi_step / algorithm.inner_steps
        weights = [early] * (algorithm.inner_steps - 1)
        return sum((w * loss for w, loss in zip(weights, losses[1:-1], strict=True)), (1 - sum(weights)) * losses[-1])
    return losses[-1]


def maml_reference(algorithm: MAML, problem: Problem, meta: Params, task: Any) -> Params:
    """Differentiate through the unrolled inner loop; for first order the inner gradients are constants.

    Source:
        Finn, Abbeel and Levine 2017, MAML. MetaSGD and MAML++ differ from it in the step sizes and the objective.
    """
    exact = algorithm.hypergrad is not Derivative.first_order
    leaves = {name: p.detach().requires_grad_() for name, p in meta.items()}
    loss = query_objective(algorithm, problem, leaves, task, create_graph=exact)
    of_task = algorithm.head is not Head.learned  # then the network's own head is not used
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=of_task, materialize_grads=of_task)
    return dict(zip(leaves, grads, strict=True))


def imaml_reference(algorithm: IMAML, problem: Supervised, meta: Params, task: Episode) -> Params:
    """Compute the implicit gradient by a fixed-point iteration instead of conjugate gradient.

    g = ((1 + damping) I + H / lambda)^-1 q is the limit of g <- (q - H g / lambda) / (1 + damping). Each step
    multiplies the error by at most |H| / lambda; ``small`` chooses a lambda that is larger than |H|.

    Source:
        Rajeswaran et al. 2019, iMAML, equation 6.
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
    """Return start minus end of torch's own optimiser on the same mini-batches; its moments begin at zero."""
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
    """Return the gradient of the mean cross-entropy over all of the task's examples, support and query."""
    leaves = {name: p.detach().requires_grad_() for name, p in meta.items() if not name.startswith("inner.")}
    x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
    loss = torch.nn.functional.cross_entropy(problem.forward(leaves, x), y)
    return tree.zeros_like(meta) | dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def protonet_reference(algorithm: ProtoNet, problem: Supervised, meta: Params, task: Episode) -> Params:
    """Return the gradient of the cross-entropy whose logits are minus the squared distances to the class means.

    Distances are measured between the inputs of the head.

    Source:
        Snell, Swersky and Zemel 2017, Prototypical networks, section 2.2.
    """
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
