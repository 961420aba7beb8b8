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
from metarun.core.inner import InnerOptimizer
from metarun.core.problem import Reduction
from metarun.core.tree import Params
from metarun.engine.over_tasks import Compile, Engine, MetaGradient
from metarun.engine.trace import ROUNDING, distance
from metarun.verify import check, definitions, problems
from metarun.verify.problems import Case

PROBLEMS = {problem.name: problem for problem in problems.cases(torch.device("cpu"))}
CHOICES = {name: config.compose([f"algo={name}"])[0].algo for name in config.choices("algo")}
ALGORITHMS = {name: algorithm for name, algorithm in CHOICES.items() if type(algorithm) in definitions.REFERENCES}
ENGINES = check.engines(torch.device("cpu"))
PATHS = {name: path for name, path in ENGINES.items() if "recorded" not in name}
RECORDED = {name: path for name, path in ENGINES.items() if name not in PATHS}
Path = tuple[Engine, int]

FOR_ANY = {name: problem for name, problem in PROBLEMS.items() if name != "mann"}  # whose network suits most methods
every_problem = pytest.mark.parametrize("problem", FOR_ANY.values(), ids=FOR_ANY)
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
    for name in ("maml", "meta_sgd", "mamlpp"):
        also(name, "recompute", hypergrad=Derivative.recompute)
    also("maml recompute", "frozen", frozen=["*bias"])
    for name in ("meta_sgd", "mamlpp"):
        also(name, "first order", hypergrad=Derivative.first_order)
    also("mamlpp", "fixed rates, few early losses", learned_rates=False, multi_step=0.3)
    found["mamlpp late"] = found["mamlpp"].at(0.9)
    also("imaml", "undamped", cg_damping=0.0, lam_damping=0.0)
    also("imaml", "afterwards", descent=Descent.afterwards)
    also("mann", "many slots", slots=20)
    also("reptile", "fresh moments", carry_moments=False)
    also("reptile", "sgd", inner_optimizer=InnerOptimizer.sgd, carry_moments=False)
    return found


VARIANTS = variants()
SUITED = [(name, p) for name, algorithm in VARIANTS.items() for p in PROBLEMS if problems.suits(algorithm, PROBLEMS[p])]
EXACT = {name: a for name, a in VARIANTS.items() if isinstance(a, MAML) and a.hypergrad is not Derivative.first_order}


def gradient(algorithm: Algorithm, problem: Case, path: Path) -> Params:
    engine, calls = path
    meta = problems.first_meta(algorithm, problem)
    return MetaGradient(engine, algorithm, problem.problem, calls)(meta, problem.episodes)[0]


@functools.cache
def reference(name: str, problem: str) -> Params:
    """The variant's own definition, computed once for all paths."""
    return check.reference(VARIANTS[name], PROBLEMS[problem])


def scaled_difference(a: Params, b: Params) -> float:
    return problems.relative_error(a, b)


def test_only_what_has_no_gradient_has_no_reference() -> None:
    assert set(CHOICES) - set(ALGORITHMS) == {"random"}
    problem = PROBLEMS["mlp"]
    got = gradient(CHOICES["random"], problem, PATHS["vmap"])
    assert all(not value.any() for value in got.values())


def to_compute() -> list[tuple[str, str, str]]:
    """(method, network, path): every path for one method of each kind; the others, and settings, on two that differ."""
    kinds = ("maml", "fomaml", "imaml", "reptile", "mamlpp", "mann")
    return [(n, on, path) for n, on in SUITED for path in PATHS if n in kinds or path in ("vmap", "native")]


@pytest.mark.parametrize(("name", "on", "path"), to_compute())
def test_equals_its_definition(name: str, on: str, path: str) -> None:
    algorithm, problem = VARIANTS[name], PROBLEMS[on]
    got = gradient(algorithm, problem, PATHS[path])
    want = reference(name, on)
    assert problems.relative_error({key: got[key] for key in want}, want) < 1e-7
    assert set(want) == set(got) or isinstance(algorithm, Reptile)  # whose handed-on moments have a test of their own
    assert all(value.dtype == torch.float64 for value in got.values())


def to_record() -> list[tuple[str, str, str]]:
    """(method, network, path): one of each kind, on a network that suits it for each path; recording takes seconds."""
    networks = {"vmap recorded": ("mlp", "mann"), "native recorded": ("conv4 max-pool",)}
    methods = ("maml", "maml recompute", "imaml", "reptile", "anil", "mamlpp", "pretrain", "protonet", "mann")
    return [(m, on, path) for m, on in SUITED if m in methods for path in RECORDED if on in networks[path]]


@pytest.mark.parametrize(("name", "network", "path"), to_record())
def test_a_recording_is_what_was_recorded(name: str, network: str, path: str) -> None:
    """Also at other parameters than those that it was recorded with."""
    problem, algorithm, (engine, calls) = PROBLEMS[network], VARIANTS[name], RECORDED[path]
    recorded = MetaGradient(engine, algorithm, problem.problem, calls)
    plain = MetaGradient(dataclasses.replace(engine, compile=Compile.false), algorithm, problem.problem)
    meta = algorithm.init(problem.meta)
    for at in (meta, tree.scale(1.1, meta)):
        got, metrics = recorded(at, problem.episodes)
        want, plain_metrics = plain(at, problem.episodes)
        off = distance((got, metrics), (want, plain_metrics))
        assert off < ROUNDING / 50  # a sum in another order here and there; ``Replay`` takes no more for rounding


@every_problem
@pytest.mark.parametrize("name", EXACT)
def test_exact_derivative_equals_finite_differences(name: str, problem: Case) -> None:
    algorithm = EXACT[name]
    fn = check.query_loss_after_adapting(algorithm, problem)
    generator = torch.Generator().manual_seed(5)
    for path in PATHS.values() if name in ("maml", "maml recompute", "mamlpp") else [PATHS["vmap"]]:
        got = gradient(algorithm, problem, path)
        along_gradient = tree.scale(1 / tree.norm(got), got)
        drawn = tree.combine(lambda p: torch.randn(p.shape, generator=generator, dtype=p.dtype), got)
        for direction in (along_gradient, tree.scale(1 / tree.norm(drawn), drawn)):
            slope = problems.finite_difference(fn, problems.first_meta(algorithm, problem), direction)
            assert tree.dot(got, direction).item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_exact_derivative_equals_finite_differences_in_every_entry() -> None:
    problem, algorithm = PROBLEMS["mlp"], VARIANTS["maml"]
    got = gradient(algorithm, problem, PATHS["vmap"])
    fn = check.query_loss_after_adapting(algorithm, problem)
    for name, parameter in problem.meta.items():
        for i in range(parameter.numel()):
            unit = tree.zeros_like(problem.meta)
            unit[name].view(-1)[i] = 1
            slope = problems.finite_difference(fn, problem.meta, unit, step=1e-6)
            assert got[name].view(-1)[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), (name, i)


@every_problem
def test_recompute_equals_store(problem: Case) -> None:
    for steps in (1, 2, 5):
        store = changed(VARIANTS["maml"], inner_steps=steps)
        recompute = changed(VARIANTS["maml recompute"], inner_steps=steps)
        for path in PATHS.values():
            assert scaled_difference(gradient(recompute, problem, path), gradient(store, problem, path)) < 1e-12


@every_problem
def test_first_order_is_the_query_gradient_and_not_mamls(problem: Case) -> None:
    exact, first = (gradient(VARIANTS[name], problem, PATHS["vmap"]) for name in ("maml", "fomaml"))
    assert scaled_difference(first, exact) > 1e-2


@every_problem
def test_frozen_parameters_stay_put_in_the_inner_loop_and_are_still_meta_learned(problem: Case) -> None:
    head = list(problem.meta)[-1]
    pattern = [name for name in problem.meta if name != head]
    for derivative in Derivative:
        algorithm = changed(VARIANTS["maml"], frozen=pattern, hypergrad=derivative)
        got = gradient(algorithm, problem, PATHS["vmap"])
        task = Episode(*(field[0] for field in problem.episodes))
        *_, adapted = algorithm.adapt(problem.problem, problem.meta, task, 2)
        moved = {name for name in adapted if not torch.equal(adapted[name], problem.meta[name])}
        assert moved == {head}
        assert all(got[name].abs().sum() > 0 for name in got if "bias" not in name)


def bilevel_problem() -> tuple[IMAML, Case]:
    """A linear model: its proximal inner problem is strongly convex, so a few thousand steps solve it exactly."""
    problem = PROBLEMS["mlp"]
    meta = {"weight": 0.3 * torch.randn(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)}
    objective = dataclasses.replace(problem.problem, forward=lambda p, x: x.flatten(1) @ p["weight"])
    algorithm = VARIANTS["imaml undamped"]
    assert isinstance(algorithm, IMAML)
    solved = changed(algorithm, inner_steps=400, inner_lr=0.2, proximal=1.0)
    return solved, dataclasses.replace(problem, objective=objective, meta=meta)


def test_imaml_is_the_derivative_of_the_solved_inner_problem() -> None:
    algorithm, problem = bilevel_problem()
    got = gradient(algorithm, problem, PATHS["vmap"])

    def solved_query_loss(meta: Params) -> torch.Tensor:
        losses = []
        for row in zip(*problem.episodes, strict=True):
            task = Episode(*row)
            phi = definitions.plain_descent(algorithm, problem.problem, meta, task, False, algorithm.proximal)[-1]
            losses.append(problem.problem.loss(problem.problem.forward(phi, task.query_x), task.query_y))
        return torch.stack(losses).mean()

    direction = tree.scale(1 / tree.norm(got), got)
    slope = problems.finite_difference(solved_query_loss, problem.meta, direction, step=1e-5)
    assert tree.dot(got, direction).item() == pytest.approx(slope, rel=1e-7)


def test_imaml_with_few_conjugate_gradient_steps_is_an_approximation() -> None:
    algorithm, problem = VARIANTS["imaml"], PROBLEMS["conv4 strided"]
    rough = changed(algorithm, cg_steps=2)
    error = scaled_difference(gradient(rough, problem, PATHS["vmap"]), gradient(algorithm, problem, PATHS["vmap"]))
    assert 1e-6 < error < 0.5


def test_reptile_hands_its_moments_on() -> None:
    """With carry_moments the inner Adam's state is meta-learned: start minus end, like the weights."""
    problem, algorithm = PROBLEMS["mlp"], VARIANTS["reptile"]
    assert isinstance(algorithm, Reptile)
    meta = algorithm.init(problem.meta)
    moments = [name for name in meta if name.startswith("inner.")]
    got = gradient(algorithm, problem, PATHS["vmap"])
    assert len(moments) == len(problem.meta) + 1
    assert got["inner.t"].item() == -algorithm.inner_steps
    moved = {name: meta[name] - got[name] for name in meta}  # one outer SGD step of size 1
    meta_gradient = MetaGradient(PATHS["vmap"][0], algorithm, problem.problem)
    again, _ = meta_gradient(moved, problem.episodes)
    fresh = {**moved, **{name: torch.zeros_like(moved[name]) for name in moments}}
    other, _ = meta_gradient(fresh, problem.episodes)
    assert scaled_difference({n: again[n] for n in problem.meta}, {n: other[n] for n in problem.meta}) > 1e-2


# Adam's first steps follow the sign of a gradient, also of one that is zero but for rounding (a bias before batch norm)
@pytest.mark.parametrize(
    "name", [n for n, on in SUITED if on == "conv4 max-pool" and (not n.startswith("reptile") or n == "reptile sgd")]
)
def test_float32_agrees_with_float64(name: str) -> None:
    problem, algorithm = PROBLEMS["conv4 max-pool"], VARIANTS[name]
    if isinstance(algorithm, IMAML):
        algorithm = changed(algorithm, cg_steps=5)
    episodes = Episode(*(v.float() if v.is_floating_point() else v for v in problem.episodes))
    single = dataclasses.replace(problem, meta=tree.combine(lambda p: p.float(), problem.meta), episodes=episodes)
    got = gradient(algorithm, single, PATHS["vmap"])
    assert all(value.dtype == torch.float32 for value in got.values())
    assert (
        scaled_difference(tree.combine(lambda p: p.double(), got), gradient(algorithm, problem, PATHS["vmap"])) < 2e-2
    )
