"""What outer steps ask, against plain autograd in float64: Hessians of the mean KL divergence, losses, gradients."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun import config
from metarun.algorithms.maml import MAML, Derivative
from metarun.core import policy, tree
from metarun.core.acting import Acting, ActingTask, Estimator
from metarun.core.meta import Meta
from metarun.core.outer_settings import Curvature
from metarun.core.rollout import Environment
from metarun.core.tree import Params
from metarun.engine import partial
from metarun.engine.collect import collected
from metarun.engine.meta_batch import Questions
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Compile, Engine, Vectorize
from metarun.engine.partial import Halves

TASKS, SHOT, HORIZON, OBSERVED, ACTIONS, LR = 3, 3, 4, 2, 2, 0.3


class Drift(Environment):
    """A point moves as it acts; its reward is the distance to the task's goal; some episodes end early."""

    observations, actions, horizon = OBSERVED, ACTIONS, HORIZON

    def reset(self, facts: Tensor, keys: Tensor) -> Tensor:
        return facts.new_zeros(*keys.shape, 2)

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(self, facts: Tensor, state: Any, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moved = state + 0.5 * action
        return moved, -(moved - facts[:, None]).norm(dim=-1), action[..., 0] > 0.7


def tanh(params: Params, x: Tensor) -> Tensor:
    mean = torch.tanh(x @ params["body"] + params["bias"]) @ params["head.weight"]
    return torch.cat([mean, params["log_std"].expand_as(mean)], -1)


def own(params: Params, x: Tensor) -> Tensor:
    """Layer norm, and a deviation that depends on the observation."""
    hidden = torch.nn.functional.layer_norm(x @ params["body"], (3,), params["bias"])
    return torch.tanh(hidden) @ params["head.weight"]


def first(forward: Callable[..., Tensor]) -> Params:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

    params = {"body": draw(OBSERVED, 3), "bias": draw(3) + 1}
    if forward is own:
        return {**params, "head.weight": draw(3, 2 * ACTIONS)}
    return {**params, "head.weight": draw(3, ACTIONS), "log_std": draw(ACTIONS) - 0.5}


@functools.cache
def method(name: str, steps: int, *words: str) -> MAML:
    given = ["dataset=navigation", f"algo={name}", f"algo.inner_lr={LR}", "algo.outer_optimizer=trpo", *words]
    algo = config.compose([*given, f"algo.inner_steps={steps}"])[0].algo
    assert isinstance(algo, MAML)
    return algo


PLAIN = Engine(Vectorize.vmap)
TRACED = Engine(Vectorize.vmap, None, Compile.auto)


@dataclasses.dataclass
class Case:
    """A method, a policy and collected experience."""

    algo: MAML
    forward: Callable[[Params, Tensor], Tensor]
    estimator: Estimator = Estimator.official

    def __post_init__(self) -> None:
        self.problem = Acting(
            environment=Drift(), forward=self.forward, discount=0.9, gae=1.0, estimator=self.estimator
        )
        self.meta = self.algo.init(first(self.forward))
        keys = torch.arange(TASKS * 2 * SHOT).view(TASKS, 2, SHOT)
        goals = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.2, -0.8]], dtype=torch.float64)
        fresh = ActingTask(goals, keys[:, 0], keys[:, 1])
        steps = self.algo.inner_steps
        self.tasks = collected(PLAIN, self.algo, self.problem, self.meta, fresh, steps, training=True)
        rows = self.tasks.experience[-1].valid.sum()
        assert 0 < rows < TASKS * SHOT * HORIZON, "some episodes end early"

    def questions(self, engine: Engine = PLAIN, steps: int = 0, **settings: Any) -> Questions:
        algo = dataclasses.replace(self.algo, **settings)
        return Questions(engine, algo, self.problem, tasks=TASKS, steps=steps)

    def moved(self) -> Meta:
        """Other meta-parameters than those that collected."""
        return tree.combine(lambda p: p + 0.1 * torch.cos(torch.arange(p.numel()) + 1.0).view_as(p), self.meta)

    # --- the same by plain autograd ---

    def one(self, task: int) -> ActingTask:
        experience = tuple(type(part)(*(leaf[task] for leaf in part)) for part in self.tasks.experience)
        facts, support, query = (leaf[task] for leaf in self.tasks[:3])
        return ActingTask(facts, support, query, experience)

    def path(self, meta: Meta, task: ActingTask) -> list[Params]:
        """A task's parameters after 0, 1, ..., S inner steps."""
        params = [meta.model]
        for k in range(self.algo.inner_steps):
            now = params[-1]
            names = [name for name in now if self.algo.moves(name)]
            fresh = self.algo.hypergrad is Derivative.first_order
            start = {n: p if p.requires_grad and not fresh else p.detach().requires_grad_() for n, p in now.items()}
            loss = self.problem.support_loss(start, task, k)
            grads = dict(
                zip(names, torch.autograd.grad(loss, [start[n] for n in names], create_graph=True), strict=True)
            )
            grads = tree.detach(grads) if fresh else grads
            params.append({n: p - meta.step_sizes.get(n, LR) * grads[n] if n in grads else p for n, p in now.items()})
        return params

    def judged(self, meta: Meta) -> tuple[Tensor, Tensor]:
        loss, kl, rows = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0.0
        for task in map(self.one, range(TASKS)):
            data = task.experience[-1]
            outputs = self.problem.outputs(self.path(meta, task)[-1], data)
            for m in range(SHOT):
                for h in range(int(data.valid[m].sum())):
                    kl = kl + policy.divergence(data.outputs[m, h], outputs[m, h])
                    rows += 1
            loss = loss + self.problem.surrogate(outputs, data) / TASKS
        return loss, kl / rows

    def flat(self, meta: Meta) -> Tensor:
        return torch.cat([p.flatten() for p in tree.leaves(meta)])

    def like(self, flat: Tensor) -> Meta:
        parts = iter(flat.split([p.numel() for p in tree.leaves(self.meta)]))
        return tree.combine(lambda p: next(parts).view_as(p), self.meta)


CASES = {
    "tanh": lambda: Case(method("maml", 1), tanh),
    "own policy": lambda: Case(method("maml", 1), own),
    "two steps": lambda: Case(method("maml", 2), own),
    "no step": lambda: Case(method("maml", 0), tanh),
    "recompute": lambda: Case(method("maml", 2, "algo.hypergrad=recompute"), tanh),
    "first order": lambda: Case(method("fomaml", 2), own),
    "meta-sgd": lambda: Case(method("meta_sgd", 1), tanh),
    "anil": lambda: Case(method("anil", 2), own),
    "lvc": lambda: Case(method("maml", 1), tanh, Estimator.lvc),
    "dice": lambda: Case(method("maml", 1), own, Estimator.dice),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def vectors(case: Case) -> list[Meta]:
    generator = torch.Generator().manual_seed(1)
    numbers = len(case.flat(case.meta))
    return [case.like(torch.randn(numbers, generator=generator, dtype=torch.float64)) for _ in range(3)]


@pytest.mark.sampled(4)
@cases
def test_fisher_products_are_those_of_the_hessian_of_the_mean_divergence(case: Callable[[], Case]) -> None:
    of = case()
    want: Any = torch.autograd.functional.hessian(lambda p: of.judged(of.like(p))[1], of.flat(of.meta))
    assert want.abs().max() > 0.1
    product = of.questions().about(of.tasks).fisher(of.meta)
    for v in vectors(of):
        torch.testing.assert_close(of.flat(product(v)), want @ of.flat(v), rtol=1e-10, atol=1e-10)


@cases
def test_trials_are_judged_on_the_experience_collected(case: Callable[[], Case]) -> None:
    of = case()
    batch = of.questions().about(of.tasks)
    before, after = batch.trial(of.meta), batch.trial(of.moved())
    assert before.kl.abs() < 1e-15 and before.loss.abs() < 1e-14, "ratios of 1, advantages of mean 0"
    loss, kl = of.judged(of.moved())
    assert kl > 1e-3
    torch.testing.assert_close((after.loss, after.kl), (loss, kl), rtol=1e-12, atol=1e-14)


@pytest.mark.sampled(4)
@cases
def test_slopes_are_the_derivatives_of_the_mean_divergence(case: Callable[[], Case]) -> None:
    of = case()
    leaf = of.flat(of.moved()).requires_grad_()
    (want,) = torch.autograd.grad(of.judged(of.like(leaf))[1], leaf)
    assert want.abs().max() > 0.01
    batch = of.questions().about(of.tasks)
    torch.testing.assert_close(of.flat(batch.slope(of.moved())), want, rtol=1e-10, atol=1e-12)
    assert of.flat(batch.slope(of.meta)).abs().max() < 1e-15, "smallest where the data were collected"


@cases
def test_gradients_are_those_of_plain_autograd(case: Callable[[], Case]) -> None:
    """The plain one where the data were collected; with clipped ratios and the penalty also elsewhere."""
    of = case()
    clip, penalty = 0.1, 0.7
    batch = of.questions(promp=dataclasses.replace(of.algo.promp, clip=clip, penalty=penalty)).about(of.tasks)

    def clipped(flat: Tensor) -> tuple[Tensor, Tensor]:
        total, far = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for task in map(of.one, range(TASKS)):
            path, data = of.path(of.like(flat), task), task.experience[-1]
            now, old = of.problem.log_probabilities(of.problem.outputs(path[-1], data), data)
            ratio, valid = (now - old).exp(), data.valid.bool()
            gain = torch.minimum(ratio * data.advantage, ratio.clamp(1 - clip, 1 + clip) * data.advantage)
            before = path[:-1] or path  # without inner steps the policy itself
            kls = [of.problem.divergence(p, task, k) for k, p in enumerate(before)]
            total = total - gain[valid].mean() / TASKS + penalty * sum(kls) / len(kls) / TASKS
            far = far + ((ratio - 1).abs() > clip)[valid].double().mean() / TASKS
        return total, far

    for at in (of.meta, of.moved()):
        leaf = of.flat(at).requires_grad_()
        loss, share = clipped(leaf)
        (want,) = torch.autograd.grad(loss, leaf)
        got, far = batch.gradient(at)
        torch.testing.assert_close(of.flat(got), want, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(far, share)
    assert share > 0, "something is clipped"
    plain, _ = MetaGradient(PLAIN, of.algo, of.problem)(of.meta, of.tasks)
    torch.testing.assert_close(of.flat(batch.gradient(of.meta)[0]), of.flat(plain), rtol=1e-10, atol=1e-12)


ENGINES = {
    "loop": Engine(Vectorize.loop, 1),
    "chunks of one": Engine(Vectorize.vmap, 1),
    "chunks of two": Engine(Vectorize.vmap, 2),
    "traced": TRACED,
    "traced chunks": Engine(Vectorize.vmap, 2, Compile.auto),
    "traced loop": Engine(Vectorize.loop, 1, Compile.auto),
}


SAMPLE = "meta-sgd", "traced chunks"  # tracing takes seconds; the other traces are in make test-all
ANSWERS = [
    pytest.param(name, way, marks=[pytest.mark.full] if "traced" in way and (name, way) != SAMPLE else [])
    for name in ("own policy", "first order", "meta-sgd")
    for way in ENGINES
]


@pytest.mark.sampled(3, 12)
@pytest.mark.parametrize(("name", "way"), ANSWERS)
def test_every_engine_gives_the_same_answers(name: str, way: str) -> None:
    of, engine = CASES[name](), ENGINES[way]
    region = dataclasses.replace(of.algo.trust_region, curvature=Curvature.differences)  # for the trace of slopes
    mine, plain = of.questions(engine, steps=100, trust_region=region).about(of.tasks), of.questions().about(of.tasks)
    product, want = mine.fisher(of.meta), plain.fisher(of.meta)
    for v in vectors(of):
        torch.testing.assert_close(product(v), want(v), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(mine.trial(of.moved()), plain.trial(of.moved()), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(mine.slope(of.moved()), plain.slope(of.moved()), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(mine.gradient(of.moved()), plain.gradient(of.moved()), rtol=1e-12, atol=1e-13)


def traced_products(of: Case, engine: Engine) -> tuple[list[Meta], list[Halves]]:
    questions = of.questions(engine, steps=100)
    product = questions.about(of.tasks).fisher(of.meta)
    results = [product(v) for v in vectors(of)]
    return results, [fn for fn in questions.functions(0.0).product._compiled.values() if isinstance(fn, Halves)]


@pytest.mark.full
def test_what_does_not_depend_on_the_vector_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    of, engine, calls = CASES["own policy"](), Engine(Vectorize.vmap, 1, Compile.auto), []
    computed = Halves.first

    def counted(self: Halves, *arguments: Any) -> list[Tensor]:
        calls.append(1)
        return computed(self, *arguments)

    monkeypatch.setattr(Halves, "first", counted)
    kept, (halves,) = traced_products(of, engine)
    assert len(calls) == TASKS and halves.sound
    assert len(halves._second.graph.nodes) < 0.8 * len(halves.trace.graph.graph.nodes)
    monkeypatch.setattr(partial, "ROOM", 0)
    whole, _ = traced_products(of, engine)
    assert len(calls) == TASKS + 3 * TASKS, "three products, nothing kept"
    for ours, theirs in zip(kept, whole, strict=True):
        assert all(map(torch.equal, tree.leaves(ours), tree.leaves(theirs))), "the same bits"


def test_a_product_that_depends_on_more_than_its_arguments_runs_whole(recwarn: pytest.WarningsRecorder) -> None:
    factor = [1.0, 1.0]

    def moody(params: Params, x: Tensor) -> Tensor:
        return factor[0] * tanh(params, x)

    of = Case(method("maml", 1), moody)
    questions = of.questions(TRACED, steps=100)
    (v, *_) = vectors(of)
    made = Halves.__init__

    def then_changes(self: Halves, *arguments: Any) -> None:
        made(self, *arguments)
        factor[0] = 1.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Halves, "__init__", then_changes)
        got = questions.about(of.tasks).fisher(of.meta)(v)
    assert [str(w.message) for w in recwarn if "kept part of a product" in str(w.message)]
    want = of.questions().about(of.tasks).fisher(of.meta)(v)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(questions.about(of.tasks).fisher(of.meta)(v), want, rtol=1e-12, atol=1e-13)
