"""Every method, on every way of computing it, against definitions, plain loops and finite differences, in float64."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch

from metarun import config
from metarun.algorithms.base import Algorithm
from metarun.algorithms.imaml import IMAML, Descent
from metarun.algorithms.maml import MAML, Derivative
from metarun.algorithms.reptile import Reptile
from metarun.core import tree
from metarun.core.episode import Episode
from metarun.core.head import Head
from metarun.core.inner import InnerOptimizer
from metarun.core.meta import Meta
from metarun.core.problem import Reduction
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Compile, Engine, each
from metarun.engine.trace import ROUNDING, distance
from metarun.verify import check, definitions, problems
from metarun.verify.problems import Case

pytestmark = pytest.mark.sampled(8, 32)

CASES = {case.name: case for case in problems.cases(torch.device("cpu"))}
CHOICES = {name: config.compose([f"algo={name}"])[0].algo for name in config.choices("algo")}
ALGORITHMS = {name: algorithm for name, algorithm in CHOICES.items() if type(algorithm) in definitions.REFERENCES}
ENGINES = check.engines(torch.device("cpu"))
PATHS = {name: path for name, path in ENGINES.items() if "traced" not in name}
TRACED = {name: path for name, path in ENGINES.items() if name not in PATHS}
Path = tuple[Engine, int]

FOR_ANY = {name: case for name, case in CASES.items() if name != "mann"}  # whose network suits most methods
every_case = pytest.mark.parametrize("case", FOR_ANY.values(), ids=FOR_ANY)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def changed(algorithm: Algorithm, **settings: Any) -> Any:
    """A copy with other settings; which ones there are depends on the method."""
    return dataclasses.replace(algorithm, **settings)


def variants() -> dict[str, Algorithm]:
    """Each option of the group, and the settings that change what is computed."""
    found: dict[str, Any] = {name: problems.small(algorithm) for name, algorithm in ALGORITHMS.items()}

    def also(name: str, what: str, **settings: Any) -> None:
        found[f"{name} {what}"] = changed(found[name], **settings)

    for name in ("maml", "fomaml", "imaml", "reptile"):
        also(name, "sum_over_shot", inner_loss=Reduction.sum_over_shot, inner_lr=0.35 * found[name].inner_lr)
        also(name, "1 step", inner_steps=1)
    for name in ("maml", "fomaml"):
        also(name, "0 steps", inner_steps=0)
        also(name, "frozen", frozen=["*bias"])
        also(name, "mini-batches", inner_batch=4)
    for name in ("maml", "fomaml", "mamlpp"):
        also(name, "head of zeros", head=Head.zero)
        # small steps: large ones from class means meet so many kinks of ReLU and pooling that differences jump
        also(name, "head of prototypes", head=Head.prototypes, inner_lr=0.02)
    also("maml head of prototypes", "0 steps", inner_steps=0)
    also("maml head of prototypes", "recompute", hypergrad=Derivative.recompute)
    also("maml head of zeros", "recompute", hypergrad=Derivative.recompute)
    for name in ("maml", "meta_sgd", "mamlpp"):
        also(name, "recompute", hypergrad=Derivative.recompute)
    also("maml recompute", "frozen", frozen=["*bias"])
    for name in ("meta_sgd", "mamlpp"):
        also(name, "first order", hypergrad=Derivative.first_order)
    for derivative in Derivative:
        also("mamlpp", f"per step, {derivative.value}", per_step=["*bias"], hypergrad=derivative)
    also("mamlpp", "fixed rates, few early losses", learned_rates=False, multi_step=0.3)
    found["mamlpp late"] = found["mamlpp"].at(0.9)
    also("imaml", "undamped", cg_damping=0.0, lam_damping=0.0)
    also("imaml", "afterwards", descent=Descent.afterwards)
    also("mann", "many slots", slots=20)
    also("reptile", "fresh moments", carry_moments=False)
    also("reptile", "sgd", inner_optimizer=InnerOptimizer.sgd, carry_moments=False)
    return found


VARIANTS = variants()
SUITED = [(name, p) for name, algorithm in VARIANTS.items() for p in CASES if problems.suits(algorithm, CASES[p])]
EXACT = {name: a for name, a in VARIANTS.items() if isinstance(a, MAML) and a.hypergrad is not Derivative.first_order}
DIFFERENTIABLE = {
    f"{name}-{of}": (name, case) for of, case in FOR_ANY.items() for name in EXACT if problems.suits(EXACT[name], case)
}


def gradient(algorithm: Algorithm, case: Case, path: Path) -> Meta:
    engine, calls = path
    meta = problems.first_meta(algorithm, case)
    return MetaGradient(engine, algorithm, case.problem, calls)(meta, case.episodes)[0]


@functools.cache
def reference(name: str, case: str) -> Meta:
    """The variant's own definition, computed once for all paths."""
    return check.reference(VARIANTS[name], CASES[case])


def test_only_what_has_no_gradient_has_no_reference() -> None:
    assert set(CHOICES) - set(ALGORITHMS) == {"random"}
    case = CASES["mlp"]
    got = gradient(CHOICES["random"], case, PATHS["vmap"])
    assert all(not value.any() for value in tree.leaves(got))


def to_compute() -> list[tuple[str, str, str]]:
    """(method, network, path): every path for one method of each kind; the others, and settings, on two that differ."""
    kinds = ("maml", "fomaml", "imaml", "reptile", "mamlpp", "mann")
    return [(n, on, path) for n, on in SUITED for path in PATHS if n in kinds or path in ("vmap", "native")]


@pytest.mark.parametrize(("name", "on", "path"), to_compute())
def test_equals_its_definition(name: str, on: str, path: str) -> None:
    algorithm, case = VARIANTS[name], CASES[on]
    got = gradient(algorithm, case, PATHS[path])
    want = reference(name, on)
    if isinstance(algorithm, Reptile):  # whose handed-on moments have a test of their own
        got = got._replace(inner_state={})
    assert problems.relative_error(got, want) < 1e-7
    assert list(got.flat()) == list(want.flat())
    assert all(value.dtype == torch.float64 for value in tree.leaves(got))


def to_record() -> list[tuple[str, str, str]]:
    """(method, network, path): one of each kind, on a network that suits it for each path."""
    networks = {"vmap traced": ("mlp", "mann"), "native traced": ("conv4 max-pool",)}
    methods = ("maml", "maml recompute", "imaml", "reptile", "anil", "mamlpp", "pretrain", "protonet", "mann")
    return [(m, on, path) for m, on in SUITED if m in methods for path in TRACED if on in networks[path]]


@pytest.mark.sampled(2, 12)  # tracing takes seconds
@pytest.mark.parametrize(("name", "network", "path"), to_record())
def test_a_trace_is_what_was_traced(name: str, network: str, path: str) -> None:
    """Also at other parameters than those that it was traced with."""
    case, algorithm, (engine, calls) = CASES[network], VARIANTS[name], TRACED[path]
    if isinstance(algorithm, IMAML):
        algorithm = changed(algorithm, cg_steps=3)  # each is recorded anew
    traced = MetaGradient(engine, algorithm, case.problem, calls)
    plain = MetaGradient(dataclasses.replace(engine, compile=Compile.false), algorithm, case.problem)
    meta = algorithm.init(case.meta.model)
    for at in (meta, tree.scale(1.1, meta)):
        got, metrics = traced(at, case.episodes)
        want, plain_metrics = plain(at, case.episodes)
        off = distance((got, metrics), (want, plain_metrics))
        assert off < ROUNDING / 50  # a sum in another order here and there; ``Replay`` takes no more for rounding


@pytest.mark.sampled(4, 16)
@pytest.mark.parametrize(("name", "case"), DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_exact_derivative_equals_finite_differences(name: str, case: Case) -> None:
    algorithm = EXACT[name]
    fn = check.query_loss_after_adapting(algorithm, case)
    generator = torch.Generator().manual_seed(5)
    paths = PATHS.values() if name in ("maml", "maml recompute", "mamlpp") else [PATHS["vmap"]]
    gradients = [gradient(algorithm, case, path) for path in paths]
    drawn = tree.combine(lambda p: torch.randn(p.shape, generator=generator, dtype=p.dtype), gradients[0])
    for along in (gradients[0], drawn):
        direction = tree.scale(1 / tree.norm(along), along)
        slope = problems.finite_difference(fn, problems.first_meta(algorithm, case), direction)
        for got in gradients:
            assert tree.dot(got, direction).item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_exact_derivative_equals_finite_differences_in_every_entry() -> None:
    case, algorithm = CASES["mlp"], VARIANTS["maml"]
    got = gradient(algorithm, case, PATHS["vmap"])
    fn = check.query_loss_after_adapting(algorithm, case)
    for name, parameter in case.meta.model.items():
        for i in range(parameter.numel()):
            unit = tree.zeros_like(case.meta)
            unit.model[name].view(-1)[i] = 1
            slope = problems.finite_difference(fn, case.meta, unit, step=1e-6)
            assert got.model[name].view(-1)[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), (name, i)


@pytest.mark.sampled(2)
@every_case
def test_recompute_equals_store(case: Case) -> None:
    for steps in (1, 2, 5):  # test_hypergrad.py has other lengths
        store = changed(VARIANTS["maml"], inner_steps=steps)
        recompute = changed(VARIANTS["maml recompute"], inner_steps=steps)
        for path in PATHS.values() if steps == 2 else [PATHS["vmap"]]:
            assert problems.relative_error(gradient(recompute, case, path), gradient(store, case, path)) < 1e-12


@every_case
def test_first_order_is_the_query_gradient_and_not_mamls(case: Case) -> None:
    exact, first = (gradient(VARIANTS[name], case, PATHS["vmap"]) for name in ("maml", "fomaml"))
    assert problems.relative_error(first, exact) > 1e-2


@every_case
def test_frozen_parameters_stay_put_in_the_inner_loop_and_are_still_meta_learned(case: Case) -> None:
    head = list(case.meta.model)[-1]
    pattern = [name for name in case.meta.model if name != head]
    for derivative in Derivative:
        algorithm = changed(VARIANTS["maml"], frozen=pattern, hypergrad=derivative)
        got = gradient(algorithm, case, PATHS["vmap"]).model
        task = next(each(case.episodes))
        *_, adapted = algorithm.adapt(case.problem, case.meta, task, 2)
        moved = {name for name in adapted if not torch.equal(adapted[name], case.meta.model[name])}
        assert moved == {head}
        assert all(got[name].abs().sum() > 0 for name in got if "bias" not in name)


def bilevel_case() -> tuple[IMAML, Case]:
    """A linear model: its proximal inner problem is strongly convex, so a few thousand steps solve it exactly."""
    case = CASES["mlp"]
    weight = 0.3 * torch.randn(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    linear = dataclasses.replace(case.problem, forward=lambda p, x: x.flatten(1) @ p["weight"])
    algorithm = VARIANTS["imaml undamped"]
    assert isinstance(algorithm, IMAML)
    solved = changed(algorithm, inner_steps=400, inner_lr=0.2, proximal=1.0)
    return solved, dataclasses.replace(case, problem=linear, meta=Meta.of({"weight": weight}))


def test_imaml_is_the_derivative_of_the_solved_inner_problem() -> None:
    algorithm, case = bilevel_case()
    got = gradient(algorithm, case, PATHS["vmap"])

    def solved_query_loss(meta: Meta) -> torch.Tensor:
        losses = []
        for row in zip(*case.episodes, strict=True):
            task = Episode(*row)
            phi = definitions.plain_descent(algorithm, case.problem, meta.model, task, False, algorithm.proximal)[-1]
            losses.append(case.problem.loss(case.problem.forward(phi, task.query_x), task.query_y))
        return torch.stack(losses).mean()

    direction = tree.scale(1 / tree.norm(got), got)
    slope = problems.finite_difference(solved_query_loss, case.meta, direction, step=1e-5)
    assert tree.dot(got, direction).item() == pytest.approx(slope, rel=1e-7)


def test_imaml_with_few_conjugate_gradient_steps_is_an_approximation() -> None:
    algorithm, case = VARIANTS["imaml"], CASES["conv4 strided"]
    rough = changed(algorithm, cg_steps=2)
    error = problems.relative_error(gradient(rough, case, PATHS["vmap"]), gradient(algorithm, case, PATHS["vmap"]))
    assert 1e-6 < error < 0.5


def test_reptile_hands_its_moments_on() -> None:
    """With carry_moments the inner Adam's state is meta-learned: start minus end, like the weights."""
    case, algorithm = CASES["mlp"], VARIANTS["reptile"]
    assert isinstance(algorithm, Reptile)
    meta = algorithm.init(case.meta.model)
    got = gradient(algorithm, case, PATHS["vmap"])
    assert list(got.inner_state) == [*(f"v.{name}" for name in case.meta.model), "t"]
    assert got.inner_state["t"].item() == -algorithm.inner_steps
    moved = tree.subtract(meta, got)  # one outer SGD step of size 1
    meta_gradient = MetaGradient(PATHS["vmap"][0], algorithm, case.problem)
    again, _ = meta_gradient(moved, case.episodes)
    other, _ = meta_gradient(moved._replace(inner_state=meta.inner_state), case.episodes)  # fresh moments
    assert problems.relative_error(again.model, other.model) > 1e-2


# Adam's first steps follow the sign of a gradient, also of one that is zero but for rounding (a bias before batch norm)
@pytest.mark.sampled(4, 16)
@pytest.mark.parametrize(
    "name", [n for n, on in SUITED if on == "conv4 max-pool" and (not n.startswith("reptile") or n == "reptile sgd")]
)
def test_float32_agrees_with_float64(name: str) -> None:
    case, algorithm = CASES["conv4 max-pool"], VARIANTS[name]
    if isinstance(algorithm, IMAML):
        algorithm = changed(algorithm, cg_steps=5)
    episodes = Episode(*(v.float() if v.is_floating_point() else v for v in case.episodes))
    single = dataclasses.replace(case, meta=tree.combine(lambda p: p.float(), case.meta), episodes=episodes)
    got = gradient(algorithm, single, PATHS["vmap"])
    assert all(value.dtype == torch.float32 for value in tree.leaves(got))
    want = gradient(algorithm, case, PATHS["vmap"])
    assert problems.relative_error(tree.combine(lambda p: p.double(), got), want) < 2e-2
