"""The committed scripts of ``benchmarks/`` run, in small, and the adapter for a comparison computes what it says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WORKLOADS: dict[str, dict[str, Any]] = {
    "conv": {"kind": "conv", "image": 16, "channels": 1, "filters": 3, "ways": 3, "shots": 1, "query": 2},
    "mlp": {"kind": "mlp", "hidden": 4, "shots": 4, "query": 3},
}
EXPECTED = {"long_inner_loop.py", "peer_metarun.py", "reference_loop.py", "startup.py"}


def test_every_script_has_a_test() -> None:
    """``metarun bench --compare reference`` runs reference_loop.py, in the tests of the command line."""
    assert {path.name for path in BENCHMARKS.rglob("*.py")} == EXPECTED


def harness() -> Any:
    """What peer_metarun.py asks of ``common.py``: the weights and data of the harness, in its names and shapes."""
    rng = np.random.default_rng(0)

    def make_params(w: dict[str, Any], dtype: str) -> dict[str, np.ndarray]:
        shapes: dict[str, tuple[int, ...]] = {}
        if w["kind"] == "conv":
            for i in range(1, 5):
                shapes[f"conv{i}.weight"] = (w["filters"], w["channels"] if i == 1 else w["filters"], 3, 3)
                shapes |= dict.fromkeys((f"conv{i}.bias", f"bn{i}.weight", f"bn{i}.bias"), (w["filters"],))
            shapes |= {"head.weight": (w["ways"], w["filters"]), "head.bias": (w["ways"],)}
        else:
            for layer, (n, m) in {"fc1": (w["hidden"], 1), "fc2": (w["hidden"],) * 2, "head": (1, w["hidden"])}.items():
                shapes |= {f"{layer}.weight": (n, m), f"{layer}.bias": (n,)}
        return {name: rng.normal(0.1, 0.5, shape).astype(dtype) for name, shape in shapes.items()}

    def make_batch(w: dict[str, Any], seed: int, dtype: Any) -> tuple[np.ndarray, ...]:
        if w["kind"] == "mlp":
            return tuple(rng.normal(size=(w["tasks"], w[n], 1)).astype(dtype) for n in ("shots",) * 2 + ("query",) * 2)
        shape = (w["channels"], w["image"], w["image"])
        x = [rng.normal(size=(w["tasks"], w["ways"] * w[n], *shape)).astype(dtype) for n in ("shots", "query")]
        y = [np.tile(np.repeat(np.arange(w["ways"]), w[n]), (w["tasks"], 1)) for n in ("shots", "query")]
        return x[0], y[0], x[1], y[1]

    facts = {"OUTER_LR": 1e-3, "BN_EPS": 1e-5, "IMAML_LAMBDA": 2.0, "IMAML_CG_ITERS": 5, "POOL": 1}
    return types.SimpleNamespace(**facts, make_params=make_params, make_batch=make_batch)


def plain(w: dict[str, Any], p: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network that the harness means by these weights, written out."""
    if w["kind"] == "mlp":
        for layer in ("fc1", "fc2"):
            x = F.relu(F.linear(x, p[f"{layer}.weight"], p[f"{layer}.bias"]))
        return F.linear(x, p["head.weight"], p["head.bias"])
    for i in range(1, 5):
        x = F.conv2d(x, p[f"conv{i}.weight"], p[f"conv{i}.bias"], padding=1)
        x = F.batch_norm(x, None, None, p[f"bn{i}.weight"], p[f"bn{i}.bias"], training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), p["head.weight"], p["head.bias"])


@pytest.mark.parametrize("kind", WORKLOADS)
@pytest.mark.parametrize("algo", ["maml", "fomaml", "reptile", "anil", "imaml"])
def test_the_peer_takes_the_step_that_the_harness_describes(
    kind: str, algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    w: dict[str, Any] = {**WORKLOADS[kind], "tasks": 2, "steps": 2, "inner_lr": 0.1}
    common = harness()
    given: dict[str, Tensor] = {}
    batches: list[tuple[Tensor, ...]] = []

    def make_params(w: dict[str, Any], dtype: str, make: Any = common.make_params) -> dict[str, np.ndarray]:
        made = make(w, dtype)
        given.update({name: torch.from_numpy(value).clone().requires_grad_() for name, value in made.items()})
        return made

    def make_batch(*arguments: Any, make: Any = common.make_batch) -> tuple[np.ndarray, ...]:
        batches.append(tuple(map(torch.from_numpy, made := make(*arguments))))
        return made

    common.make_params, common.make_batch = make_params, make_batch
    monkeypatch.setitem(sys.modules, "common", common)
    spec = importlib.util.spec_from_file_location("peer_metarun", BENCHMARKS / "peer_metarun.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    peer = module.Peer(w, algo, dtype=torch.float64, variant="compile=false", pool=1)
    loss, got = peer.step(0), peer.grads()
    assert set(got) == set(given) and np.isfinite(loss) and peer.info()["engine"]
    assert all(np.isfinite(value).all() and value.shape == tuple(given[name].shape) for name, value in got.items())
    if algo == "imaml":
        return  # cut off after a few steps of conjugate gradient, it has no plain counterpart
    moved = [n for n in given if algo != "anil" or n.startswith("head")]
    want = {name: torch.zeros_like(value) for name, value in given.items()}
    cost = F.cross_entropy if kind == "conv" else F.mse_loss
    for xs, ys, xq, yq in zip(*batches[0], strict=True):
        params = dict(given)
        for _ in range(w["steps"]):
            slopes = torch.autograd.grad(
                cost(plain(w, params, xs), ys), [params[n] for n in moved], create_graph=algo in ("maml", "anil")
            )
            params |= {n: params[n] - w["inner_lr"] * slope for n, slope in zip(moved, slopes, strict=True)}
        if algo == "reptile":
            grads = [given[n] - params[n] for n in given]
        else:
            grads = list(torch.autograd.grad(cost(plain(w, params, xq), yq), list(given.values())))
        for name, grad in zip(given, grads, strict=True):
            want[name] = want[name] + grad.detach() / w["tasks"]
    for name, value in want.items():
        assert np.allclose(got[name], value.numpy(), rtol=1e-6, atol=1e-10), name


@pytest.mark.full
def test_the_long_inner_loop_measures(tmp_path: Path) -> None:
    words = ["--size", "8", "--batch", "2", "--steps", "1", "--modes", "recompute", "--threads", "1", "--limit", "200"]
    words += ["--json", "figures.json", "model=conv4", "model.filters=2", "device.compile=false"]
    script = [sys.executable, str(BENCHMARKS / "long_inner_loop.py"), *words]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "figures.json").read_text())["cases"]
    assert "failed" not in case and case["gradient_norm"] > 0, case
    assert f"{case['gradient_norm']:.6g}" in done.stdout


@pytest.mark.full
def test_the_start_of_commands_is_measured(tmp_path: Path) -> None:
    script = [sys.executable, str(BENCHMARKS / "startup.py"), "--rounds", "1", "--json", "figures.json"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    taken = {name: seconds for name, (seconds,) in json.loads((tmp_path / "figures.json").read_text()).items()}
    assert all(name in done.stdout and seconds > 0 for name, seconds in taken.items())
    # in shares of each other, since a busy machine slows all of them
    assert 5 * taken["metarun --help"] < taken["import torch"] and 2 * taken["a wrong key"] < taken["import torch"]
