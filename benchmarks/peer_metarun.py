"""metarun as a peer of other libraries: the same work, data and weights, the same timing loop, one JSON line.

For a harness that has ``common.py`` (workloads, weights, data) and imports ``peer_NAME.Peer``: step(i) -> mean query
loss after an outer step, grads() -> what that step handed to the outer optimiser. NOTES.md says how to run it.
``variant``: settings of ``conf/device``, such as "vectorize=loop,compile=false,chunk=4".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import common
import torch

from metarun import config
from metarun.core.episode import Episode
from metarun.core.meta import Meta
from metarun.core.objective import classification, regression
from metarun.core.outer_step import Nothing
from metarun.engine.device import Device
from metarun.engine.meta_gradient import MetaGradient
from metarun.engine.over_tasks import Engine
from metarun.models.base import Init, functional, initialise
from metarun.models.conv4 import Conv4, Downsample, Features
from metarun.models.mlp import MLP, Activation

LONG = 100_000  # meta-iterations: the engine compiles what a published training length earns back


class Peer:
    algos = ("maml", "fomaml", "reptile", "anil", "imaml")

    def __init__(
        self,
        w: dict[str, Any],
        algo: str,
        dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        pool: int = common.POOL,
        imaml_iters: int | None = None,
    ):
        self.w, self.algo, self.variant = w, algo, variant
        conv = w["kind"] == "conv"
        settings = dict(word.split("=") for word in variant.split(",")) if variant else {}
        words = [
            f"algo={'maml' if algo == 'anil' else algo}",
            f"algo.inner_lr={w['inner_lr']}",
            f"algo.inner_steps={w['steps']}",
        ]
        words += ["algo.outer_optimizer=adam", f"algo.outer_lr={common.OUTER_LR}", "algo.clip_value=null"]
        words += ["algo.inner_loss=mean", "device.kind=cpu", *(f"device.{k}={v}" for k, v in settings.items())]
        if algo == "reptile":  # every inner step on the whole support set, by SGD
            words += [f"algo.train_shot={w['shots']}", "algo.inner_batch=1000", "algo.inner_optimizer=sgd"]
            words += ["algo.carry_moments=false", "algo.outer_schedule=none"]
        if algo == "imaml":
            words += [f"algo.proximal={common.IMAML_LAMBDA}", "algo.cg_damping=0", "algo.lam_damping=0"]
            words += [f"algo.cg_steps={imaml_iters or common.IMAML_CG_ITERS}"]
        if algo == "anil":
            words += ["algo.frozen=[body.*]"]
        experiment, _ = config.compose(words)
        device: Device = experiment.device
        plain: dict[str, Any] = {"init": Init.torch}
        if conv:
            model: Any = Conv4(
                filters=w["filters"],
                downsample=Downsample.max_pool,
                features=Features.flatten,
                norm_gamma=True,
                norm_eps=common.BN_EPS,
                head_init=Init.torch,
                **plain,
            )
            shape, outputs = (w["channels"], w["image"], w["image"]), w["ways"]
        else:
            model = MLP(
                hidden=[w["hidden"]] * 2,
                activation=Activation.relu,
                norm=False,
                norm_gamma=True,
                norm_eps=1e-5,
                **plain,
            )
            shape, outputs = (1,), 1
        module = initialise(model, shape, outputs, seed=0).to(dtype)
        given = common.make_params(w, dtype="float64" if dtype == torch.float64 else "float32")
        self.names = {self._ours(name): name for name in given if self._ours(name)}
        self.unused = {name: torch.from_numpy(v) for name, v in given.items() if not self._ours(name)}
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(torch.from_numpy(given[self.names[name]]).reshape(p.shape))
        self.meta = Meta.of({name: p.detach().clone() for name, p in module.named_parameters()})
        objective = classification(functional(module), outputs) if conv else regression(functional(module))
        batches = [self._episode(common.make_batch(w, s, given["head.bias"].dtype)) for s in range(pool)]
        self.batches = batches
        examples = len(batches[0].support_x[0]) + (0 if algo == "reptile" else len(batches[0].query_x[0]))
        threads = torch.get_num_threads()
        where = device.torch_device()
        torch.set_num_threads(threads)
        self.engine = Engine.choose(
            device.vectorize,
            device.tasks_at_once(),
            device.compiling(),
            where,
            module,
            examples=examples,
            width=batches[0].support_x[0, 0].numel(),
            run=lambda: module(batches[0].support_x[0]),
        )
        self.meta_gradient = MetaGradient(self.engine, experiment.algo, objective, calls=LONG)
        self.outer = replace(experiment.algo, clip_value=None, clip_norm=None).outer_step(self.meta)

    def _ours(self, name: str) -> str | None:
        """metarun's name of a parameter; None for a convolution's bias, which batch norm cancels and it leaves out."""
        part, _, kind = name.partition(".")
        if part.startswith("conv"):
            return f"body.{int(part[4:]) - 1}.0.weight" if kind == "weight" else None
        if part.startswith("bn"):
            return f"body.{int(part[2:]) - 1}.1.{kind}"
        if part.startswith("fc"):
            return f"body.{2 * int(part[2:]) - 1}.{kind}"
        return name

    def _episode(self, batch: Any) -> Episode:
        return Episode(*(torch.from_numpy(a) for a in batch), key=torch.arange(self.w["tasks"]))

    def step(self, i: int) -> float:
        grads, metrics = self.meta_gradient(self.meta, self.batches[i % len(self.batches)])
        self.outer.step(grads, 0.0, Nothing())
        return metrics["loss"].mean().item()

    def grads(self) -> dict[str, Any]:
        zero = {name: torch.zeros_like(v).numpy() for name, v in self.unused.items()}
        return zero | {self.names[name]: p.grad.numpy() for name, p in self.meta.model.items() if p.grad is not None}

    def info(self) -> dict[str, Any]:
        return {"torch": torch.__version__, "threads": torch.get_num_threads(), "engine": self.engine.describe()}
