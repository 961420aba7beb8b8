"""``metarun bench``: throughput, peak memory and time shares of a meta-step on this machine, on generated data."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import metarun
from metarun.core.objective import supervised
from metarun.datasets.base import Split
from metarun.datasets.generated import Generated
from metarun.errors import UserError
from metarun.progress import progress_bar
from metarun.runs.experiment import Experiment
from metarun.runs.setup import Setup, assemble, load

POOL = 4  # meta-batches that take turns
CONVOLUTIONS = ("conv", "metarun::transpose", "metarun::correlate")
PRODUCTS = ("mm", "gemm", "linear", "cutlass")


def measure(experiment: Experiment, seconds: float, compare: bool) -> dict[str, Any]:
    """Measure meta-steps after a warm-up step.

    Args:
        experiment: what to run; labelled examples are replaced by generated ones of the same shape.
        seconds: time to measure for; at least three steps are measured.
        compare: whether the plain loop of ``benchmarks/reference_loop.py`` runs in turns with metarun, for the ratio.

    Returns:
        The entries that ``table`` prints: tasks per second, seconds, MB, and shares 0..1.

    Raises:
        UserError: ``compare`` is set and the plain loop does not implement the method.
    """
    with experiment.device.applied() as device:
        return _measure(experiment, device, seconds, compare)


def _measure(experiment: Experiment, device: torch.device, seconds: float, compare: bool) -> dict[str, Any]:
    setup = _assembled(experiment, device)
    setup.require_room()
    batches = _meta_batches(setup)
    ours = _meta_step(setup)
    reference = _reference_step(setup) if compare else None
    began = time.perf_counter()
    ours(batches[0])
    first = time.perf_counter() - began
    memory = _peak_memory(ours, batches[0], device)  # before the reference adds its own
    if reference:
        reference(batches[1])
    pairs: list[tuple[float, float | None]] = []
    used = 0.0
    with progress_bar(total=round(seconds), desc="bench", unit="s") as bar:
        while used < seconds or len(pairs) < 3:
            batch = batches[len(pairs) % POOL]
            pair = (_seconds(ours, batch, device), _seconds(reference, batch, device) if reference else None)
            pairs.append(pair)
            used += pair[0] + (pair[1] or 0.0)
            bar.update(min(round(used), round(seconds)) - bar.n)
    result = {
        "engine": setup.engine.describe(),
        "device": device_name(device),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "meta_batch": experiment.meta_batch,
        "steps_measured": len(pairs),
        "first_step_s": first,
        "tasks_per_s": _spread([experiment.meta_batch / ours for ours, _ in pairs]),
        "peak_memory_mb": memory,
        **_shares(ours, batches[0], device),
    }
    if reference:
        result["reference_tasks_per_s"] = _spread([experiment.meta_batch / other for _, other in pairs if other])
        result["times_the_reference"] = _spread([other / ours for ours, other in pairs if other])
    return result


def throughput(experiment: Experiment, seconds: float) -> float:
    """Measure the median tasks per second of meta-steps, after one warm-up step.

    Args:
        experiment: what to run, on generated data.
        seconds: time to measure for; at least one step is measured.
    """
    with experiment.device.applied() as device:
        setup = _assembled(experiment, device)
        setup.require_room()
        step, batches = _meta_step(setup), _meta_batches(setup)
        step(batches[0])
        taken: list[float] = []
        while sum(taken) < seconds:
            taken.append(_seconds(step, batches[len(taken) % POOL], device))
    return experiment.meta_batch / _spread(taken)["median"]


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the number of CPU threads in use."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _assembled(experiment: Experiment, device: torch.device) -> Setup:
    """Build everything on noise of the data set's shapes, or on its own tasks where noise cannot stand in for them."""
    of = experiment.dataset
    return assemble(experiment, Generated(of, device) if of.labelled else load(experiment, device), device)


def _meta_batches(setup: Setup) -> list[Any]:
    """Draw the meta-batches before the measurement starts."""
    x = setup.experiment
    support, query = x.training_shots()
    return [
        setup.tasks.sample(Split.train, x.seed, range(i * x.meta_batch, (i + 1) * x.meta_batch), x.way, support, query)
        for i in range(POOL)
    ]


def _meta_step(setup: Setup) -> Callable[..., None]:
    """Return a training step without sampling and logging."""
    meta = setup.first_meta()
    outer = setup.experiment.algo.outer_step(meta)
    meta_gradient, questions = setup.meta_gradient(), setup.questions()

    def step(episodes: Any) -> None:
        tasks = setup.collected(meta, episodes)
        grads, metrics = meta_gradient(meta, tasks)
        outer.step(grads, 0.0, questions.about(tasks))
        metrics["loss"].mean().item()

    return step


def _reference_step(setup: Setup) -> Callable[..., None]:
    package = Path(metarun.__file__).parent
    places = (package / "benchmarks" / "reference_loop.py", package.parent / "benchmarks" / "reference_loop.py")
    spec = importlib.util.spec_from_file_location("reference_loop", next(path for path in places if path.exists()))
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    tasks = supervised(setup.problem, "--compare reference")
    try:
        loop = reference.ReferenceLoop(setup.module, tasks.loss, tasks.way, setup.experiment.algo)
    except NotImplementedError as error:
        raise UserError(f"--compare reference: {error}") from None
    optimizer = torch.optim.Adam(setup.module.parameters(), lr=0.0)  # the same work, but constant parameters

    def step(episodes: Any) -> None:
        loss = loop(episodes)
        optimizer.step()
        loss.item()

    return step


def _seconds(step: Callable[..., None], episodes: Any, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    step(episodes)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": ordered[len(ordered) // 2], "min": ordered[0], "max": ordered[-1]}


def _peak_memory(step: Callable[..., None], episodes: Any, device: torch.device) -> float:
    """Measure the largest memory during a step, in MB.

    It is the GPU's allocations or, on a CPU, the whole process with its libraries. Only Linux can reset the peak;
    elsewhere it is the largest since the process began.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step(episodes)
        return torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    step(episodes)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 1024)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error within a ``with`` block: torch's profiler reports its start and end there."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _shares(step: Callable[..., None], episodes: Any, device: torch.device) -> dict[str, float]:
    """Measure the shares (0..1) of a step's computing time that convolutions and matrix products take."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with _quiet(), profile(activities=kinds) as profiled:
        step(episodes)
        _wait(device)
    on_gpu = device.type == "cuda"
    spent = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in profiled.key_averages()}
    total = sum(spent.values()) or 1.0

    def share(words: tuple[str, ...], but: tuple[str, ...] = ()) -> float:
        chosen = (t for key, t in spent.items() if any(w in key for w in words) and not any(w in key for w in but))
        return sum(chosen) / total

    return {"share_in_convolutions": share(CONVOLUTIONS), "share_in_matrix_products": share(PRODUCTS, CONVOLUTIONS)}


def table(result: dict[str, Any]) -> str:
    """Format a result of ``measure`` as text."""

    def spread(value: dict[str, float], unit: str) -> str:
        return f"{value['median']:.4g} {unit} ({value['min']:.4g} to {value['max']:.4g})"

    step = 1e3 * result["meta_batch"] / result["tasks_per_s"]["median"]
    lines = [
        ("engine", f"{result['engine']}; {result['device']}; torch {result['torch']}"),
        ("throughput", f"{spread(result['tasks_per_s'], 'tasks/s')} over {result['steps_measured']} steps"),
        ("meta-step", f"{step:.4g} ms, {result['meta_batch']} tasks"),
        ("first step", f"{result['first_step_s']:.2f} s, with what it traces and compiles"),
        ("peak memory", f"{result['peak_memory_mb']:.0f} MB"),
        ("time in", f"convolutions {100 * result['share_in_convolutions']:.0f} %, "
         f"matrix products {100 * result['share_in_matrix_products']:.0f} %"),
    ]  # fmt: skip
    if "times_the_reference" in result:
        lines += [
            ("plain loop", spread(result["reference_tasks_per_s"], "tasks/s")),
            ("ratio", spread(result["times_the_reference"], "times the plain loop")),
        ]
    return "\n".join(f"{name:12} {text}" for name, text in lines)
