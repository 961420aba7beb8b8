"""Tasks that are no lists of examples: what methods need of a task is its losses."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from metarun import config
from metarun.algorithms.imaml import IMAML
from metarun.algorithms.maml import MAML, Derivative
from metarun.algorithms.mamlpp import MAMLpp
from metarun.algorithms.reptile import Reptile
from metarun.core import rng, tree
from metarun.core.batch_norm import Norm
from metarun.core.inner import InnerOptimizer
from metarun.core.meta import Meta
from metarun.core.metric import Metric
from metarun.core.problem import Metrics, Problem, Reduction
from metarun.core.tree import Params
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import OverTasks, each
from metarun.errors import UserError
from metarun.verify import check, problems

Task = dict[str, Tensor]
DARTS, LAST = 5, 1000  # darts in a throw; the number of the throw that is judged
MISS = Metric(
    name="miss", words="distance", unit=" m", larger_is_better=False, scale=1.0, digits=2, bounds=(0.0, math.inf)
)


class Darts(Problem):
    """Darts at a target that differs from task to task. How each is blown about is drawn anew for every throw, from the
    task's key; parameters: where to aim, and how hard to throw."""

    metric = MISS

    def thrown(self, params: Params, task: Task, throw: int) -> Tensor:
        """Squared distances [DARTS] from the target."""
        wind = rng.normal(rng.fold(task["key"], throw), 2 * DARTS).reshape(DARTS, 2).to(params["aim"])
        return (params["aim"].tanh() * (params["force"] + wind) - task["target"]).square().sum(1)

    def judged(self, distances: Tensor) -> tuple[Tensor, Metrics]:
        loss = distances.mean()
        return loss, {"loss": loss.detach(), "miss": distances.detach().sqrt().mean()}

    def support_loss(self, params: Params, task: Task, k: int) -> Tensor:
        return self.thrown(params, task, k).mean()

    def support_metrics(self, params: Params, task: Task, k: int) -> Metrics:
        return self.judged(self.thrown(params, task, k))[1]

    def query_loss(self, params: Params, task: Task) -> tuple[Tensor, Metrics]:
        return self.judged(self.thrown(params, task, LAST))

    def whole_loss(self, params: Params, task: Task) -> tuple[Tensor, Metrics]:
        return self.judged(torch.cat([self.thrown(params, task, throw) for throw in (0, LAST)]))

    def measure(self, params: Params, task: Task, k: int, norms: Sequence[Norm]) -> tuple[Tensor, Tensor]:
        loss, metrics = self.query_loss(params, task)
        return metrics["miss"].expand(len(norms)), loss.expand(len(norms))


PROBLEM = Darts()
FIRST = {"aim": torch.tensor([0.3, -0.5]).double(), "force": torch.tensor([[1.5], [0.7], [1.0], [1.2], [0.9]]).double()}
TASKS = {
    "key": rng.fold(rng.root(0), torch.arange(3)),
    "target": torch.tensor([[1.0, 0.2], [-0.4, 0.8], [0.1, -1.3]]).double(),
}
WAYS = check.engines(torch.device("cpu"))
NO_BATCH: dict[str, Any] = {"inner_batch": None, "eval_inner_batch": None, "carry_moments": False}
METHODS: dict[str, dict[str, Any]] = {
    "maml": {},
    "maml, recompute": {"hypergrad": Derivative.recompute},
    "fomaml": {},
    "reptile": NO_BATCH,
    "reptile, sgd": {**NO_BATCH, "inner_optimizer": InnerOptimizer.sgd},
    "imaml": {},
    "meta_sgd": {},
    "mamlpp": {"multi_step_until": 0.5, "first_order_until": 0.0},
}


@functools.cache
def method(name: str) -> Any:
    algorithm: Any = problems.small(config.compose([f"algo={name.split(',')[0]}"])[0].algo)
    return dataclasses.replace(algorithm, **METHODS.get(name, {}))


def moved_step_sizes(meta: Meta) -> Meta:
    """Step sizes that all differ."""
    spread = {n: v * torch.linspace(0.5, 1.5, v.numel()).to(v).reshape(v.shape) for n, v in meta.step_sizes.items()}
    return meta._replace(step_sizes=spread)


def plain(algorithm: Any, meta: Meta, task: Task, progress: float) -> Meta:
    """One task's meta-gradient by ``torch.autograd``, of the problem's losses."""
    leaves = {name: value.clone().requires_grad_() for name, value in meta.flat().items()}
    if isinstance(algorithm, Reptile):
        return Meta.of(tree.subtract(meta.model, by_torchs_optimiser(algorithm, meta.model, task)))
    if isinstance(algorithm, IMAML):
        return Meta.of(implicit(algorithm, meta.model, task))
    assert isinstance(algorithm, MAML)
    begin = Meta.from_flat(leaves)
    params, losses = begin.model, []
    for k in range(algorithm.inner_steps):
        slopes = grad(PROBLEM.support_loss(params, task, k), list(params.values()), create_graph=True)
        for (name, value), slope in zip(list(params.items()), slopes, strict=True):
            size = begin.step_sizes.get(name, torch.tensor(algorithm.inner_lr, dtype=value.dtype))
            size = size[k] if isinstance(algorithm, MAMLpp) else size
            constant = algorithm.hypergrad is Derivative.first_order
            params = {**params, name: value - size * (slope.detach() if constant else slope)}
        losses.append(PROBLEM.query_loss(params, task)[0])
    early = 0.0
    if isinstance(algorithm, MAMLpp):
        early = algorithm.multi_step / algorithm.inner_steps * (1 - progress / algorithm.multi_step_until)
    loss = (1 - early * (len(losses) - 1)) * losses[-1] + early * sum(losses[:-1])
    return Meta.from_flat(dict(zip(leaves, grad(loss, list(leaves.values())), strict=True)))


def by_torchs_optimiser(algorithm: Reptile, first: Params, task: Task) -> Params:
    params = {name: value.clone().requires_grad_() for name, value in first.items()}
    optimiser: torch.optim.Optimizer = torch.optim.SGD(list(params.values()), lr=algorithm.inner_lr)
    if algorithm.inner_optimizer is InnerOptimizer.adam:
        betas = 0.0, algorithm.beta2
        optimiser = torch.optim.Adam(list(params.values()), lr=algorithm.inner_lr, betas=betas, eps=algorithm.eps)
    for k in range(algorithm.inner_steps):
        optimiser.zero_grad()
        PROBLEM.support_loss(params, task, k).backward()
        optimiser.step()
    return tree.detach(params)


def implicit(algorithm: IMAML, first: Params, task: Task) -> Params:
    """The implicit equation solved with the Hessian written out; the inner loop descends what it says it does."""
    params = first
    for k in range(algorithm.inner_steps):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        pull = sum((leaves[n] - first[n]).square().sum() for n in first)
        loss = PROBLEM.support_loss(leaves, task, k) + algorithm.proximal / 2 * pull
        slopes = grad(loss, list(leaves.values()))
        params = {n: p - algorithm.inner_lr * g for (n, p), g in zip(params.items(), slopes, strict=True)}
    sizes = [value.numel() for value in params.values()]

    def unpacked(vector: Tensor) -> Params:
        parts = zip(params.items(), vector.split(sizes), strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in parts}

    at = torch.cat([value.flatten() for value in params.values()]).requires_grad_()
    hessian: Any = torch.autograd.functional.hessian(
        lambda v: PROBLEM.support_loss(unpacked(v), task, algorithm.inner_steps), at
    )
    (query,) = grad(PROBLEM.query_loss(unpacked(at), task)[0], at)
    unit = torch.eye(len(at), dtype=at.dtype)
    system = (1 + algorithm.cg_damping) * unit + hessian / (algorithm.proximal + algorithm.lam_damping)
    return unpacked(torch.linalg.solve(system, query))


@functools.cache
def by_autograd(name: str, scale: float, progress: float) -> Meta:
    """The mean of the tasks' meta-gradients, computed once for all ways."""
    algorithm = method(name)
    meta = tree.scale(scale, moved_step_sizes(algorithm.init(FIRST)))
    rows = [plain(algorithm, meta, task, progress) for task in each(TASKS)]
    return tree.scale(1 / 3, tree.add(tree.add(rows[0], rows[1]), rows[2]))


# Tracing takes seconds: one method of each kind, and the others in make test-all.
KINDS = ("maml", "imaml", "mamlpp", "reptile")
TO_COMPUTE = [
    pytest.param(name, way, marks=[pytest.mark.full] if way == "vmap traced" and name not in KINDS else [])
    for name in METHODS
    for way in ("loop", "vmap", "vmap by 2", "vmap traced")
]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("name", "way"), TO_COMPUTE)
def test_the_meta_gradient_is_plain_autograds(name: str, way: str) -> None:
    """In one go, in chunks, and from a trace, also at other values than those that it was traced with."""
    algorithm, (engine, calls) = method(name), WAYS[way]
    meta_gradient = MetaGradient(engine, algorithm, PROBLEM, calls)
    for scale, progress in ((1.0, 0.25), (1.2, 0.4)):
        meta = tree.scale(scale, moved_step_sizes(algorithm.init(FIRST)))
        got, metrics = meta_gradient(meta, TASKS, progress)
        assert problems.relative_error(got, by_autograd(name, scale, progress)) < 1e-10
        assert list(got.flat()) == list(meta.flat())
        assert set(metrics) == {"loss", "miss"} and all(value.shape == (3,) for value in metrics.values())


def test_every_inner_step_draws_its_own_numbers() -> None:
    """Or the test above could not tell the steps apart."""
    (task, *_) = each(TASKS)
    assert len({PROBLEM.support_loss(FIRST, task, k).item() for k in (0, 1, 2, LAST)}) == 4


@pytest.mark.parametrize("name", [*METHODS, "random"])
def test_tasks_are_adapted_to_and_measured(name: str) -> None:
    """As evaluation does it, side by side and after every number of steps; where nothing was adapted, by hand."""
    algorithm = method(name)
    meta, norms = algorithm.init(FIRST), [Norm.transductive]

    def measured(meta: Meta, task: Task) -> tuple[Tensor, Tensor]:
        metrics, losses = zip(*algorithm.measure_adaptation(PROBLEM, meta, task, range(3), norms), strict=True)
        return torch.cat(metrics), torch.cat(losses)

    ((miss, loss),) = OverTasks(WAYS["vmap"][0], measured)(meta, TASKS)
    assert miss.shape == loss.shape == (3, 3) and miss.isfinite().all() and len(loss.unique()) == 9
    for task, of_task in zip(each(TASKS), miss, strict=True):
        assert of_task[0].item() == pytest.approx(PROBLEM.thrown(FIRST, task, LAST).sqrt().mean().item())
    for task, of_task in zip(each(TASKS), loss, strict=True):
        *_, last = algorithm.adapt(PROBLEM, meta, task, 2)
        assert of_task[2].item() == pytest.approx(PROBLEM.query_loss(last, task)[0].item())


@pytest.mark.parametrize("algo", ["protonet", "mann", "pretrain"])
def test_a_method_for_labelled_examples_says_so(algo: str) -> None:
    algorithm, (task, *_) = method(algo), each(TASKS)
    with pytest.raises(UserError) as caught:
        list(algorithm.adapt(PROBLEM, Meta.of(FIRST), task, 1))
    said = f"algo={algo}: works on labelled examples, which this data set's tasks have none of"
    assert str(caught.value) == said
    if algo != "pretrain":
        with pytest.raises(UserError, match=f"^{said}$"):
            algorithm.meta_grad(PROBLEM, Meta.of(FIRST), task, torch.tensor(0.0))


@pytest.mark.parametrize("name", ["maml", "reptile", "meta_sgd"])
@pytest.mark.parametrize("setting", [{"inner_batch": 4}, {"inner_loss": Reduction.sum_over_shot}], ids=str)
def test_settings_about_examples_are_refused(name: str, setting: dict[str, Any]) -> None:
    algorithm = dataclasses.replace(method(name), **setting)
    said = r"^algo\.inner_loss must be mean, .* null, where the method has them: .* tasks list no examples$"
    with pytest.raises(UserError, match=said):
        MetaGradient(WAYS["vmap"][0], algorithm, PROBLEM)(algorithm.init(FIRST), TASKS)
