"""Peak memory and time of one meta-gradient of ResNet-18, by how it is differentiated and by its inner steps.

    python benchmarks/long_inner_loop.py --steps 5,100 --modes recompute --json long_inner_loop.json

One task with as many classes as images, noise for images, one query image a class. Every case has a process of its
own, so that no peak hides behind an earlier one. Memory is what the meta-gradient adds: on a CPU to the process's
resident memory, on a GPU to torch's allocations; ``before_mb`` in the JSON is what was there already, the first
parameters among it. More settings may follow the options: ``device.vectorize=loop``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from metarun import config
from metarun.core import tree
from metarun.datasets.base import Split
from metarun.datasets.generated import Generated
from metarun.errors import UserError
from metarun.runs.experiment import Experiment
from metarun.runs.setup import assemble
from metarun.verify.speed import device_name

MB, GB = 2**20, 2**30


def experiment(settings: argparse.Namespace, mode: str, steps: int) -> Experiment:
    """The settings of a case. Raises ``UserError`` for what cannot be."""
    words = ["model=resnet18", "dataset=miniimagenet", f"dataset.size={settings.size}", "algo=maml", "steps=1"]
    words += [f"way={settings.batch}", "shot=1", "query=1", "meta_batch=1", f"algo.hypergrad={mode}"]
    words += [f"algo.inner_steps={steps}", "algo.inner_lr=1e-3", f"device={settings.device}"]
    words += [f"device.threads={settings.threads}", *settings.overrides]
    return config.compose(words)[0]


def measured(case: Experiment, most: float) -> dict[str, Any]:
    """One meta-gradient in this process, which may take ``most`` GB."""
    with case.device.applied() as device:
        return _measured(case, device, most)


def _measured(case: Experiment, device: torch.device, most: float) -> dict[str, Any]:
    bench = assemble(case, Generated(case.dataset, device), device)
    meta, meta_gradient = bench.first_meta(), bench.meta_gradient()
    tasks = bench.tasks.sample(Split.train, 0, range(1), case.way, case.shot, case.query)
    limit_memory(most, device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, _ = memory(device)
    began, worked = time.perf_counter(), time.process_time()
    grads, _ = meta_gradient(meta, tasks)
    norm = tree.norm(grads).item()  # waits for a GPU, too
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    peak = memory(device)[1]
    return {
        "peak_mb": peak - before,
        "before_mb": before,
        "seconds": seconds,
        "cpu_seconds": worked,  # of all threads
        "gradient_norm": norm,
        "engine": bench.engine.describe(),
        "device": device_name(device),
        "torch": torch.__version__,
    }


def memory(device: torch.device) -> tuple[float, float]:
    """What is in use now, and the most there has been; MB."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() / MB, torch.cuda.max_memory_allocated() / MB
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return kilobytes["VmRSS:"] / 1024, kilobytes["VmHWM:"] / 1024


def limit_memory(most: float, device: torch.device) -> None:
    """Have allocations fail that go beyond ``most`` GB, before the system ends processes that have no part in this."""
    if device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(most * GB), int(most * GB)))


def available() -> float:
    """Memory that this machine can still give, GB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20


def outcome(words: list[str], limit: float) -> dict[str, Any]:
    """What a case's own process says, or how it failed."""
    try:
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:g} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    short = done.returncode == -9 or any(word in said[-1] for word in ("memory", "bad_alloc"))
    return {"failed": "out of memory" if short else said[-1]}


def line(case: dict[str, Any]) -> str:
    """A row of the table."""
    start = f"{case['mode']:12}{case['steps']:>6}"
    return f"{start}  {case['failed']}" if "failed" in case else (
        f"{start}{case['peak_mb']:>14.0f}{case['seconds']:>10.1f}{case['gradient_norm']:>16.6g}"
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch", type=int, default=16, help="support images, and query images")
    parser.add_argument("--steps", default="1,5,20,100", help="numbers of inner steps")
    parser.add_argument("--modes", default="store,recompute", help="values of algo.hypergrad")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", default="auto", help="of the CPU")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for a case")
    parser.add_argument(
        "--memory", type=float, default=0.9 * available(), help="GB for a case on a CPU; 90 %% of what is free"
    )
    parser.add_argument("--json", metavar="FILE", help="where to write the figures")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="more settings, KEY=VALUE")
    settings = parser.parse_args()
    if settings.case:
        mode, steps = settings.case.split(",")
        print(json.dumps(measured(experiment(settings, mode, int(steps)), settings.memory)))
        return
    try:
        cases = [(mode, int(steps)) for mode in settings.modes.split(",") for steps in settings.steps.split(",")]
        for case in cases:
            experiment(settings, *case)
    except (UserError, ValueError) as error:
        parser.error(str(error))
    print(f"{'mode':12}{'steps':>6}{'memory, MB':>14}{'time, s':>10}{'gradient norm':>16}")
    report = {key: getattr(settings, key) for key in ("size", "batch", "overrides", "limit", "memory")} | {"cases": []}
    for mode, steps in cases:
        words = [*sys.argv[1:], "--memory", str(settings.memory), "--case", f"{mode},{steps}"]
        found = {"mode": mode, "steps": steps, **outcome(words, settings.limit)}
        print(line(found), flush=True)
        report["cases"].append(found)
        if settings.json:
            Path(settings.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
