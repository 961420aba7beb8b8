"""The outer step of ProMP: several Adam steps on the same experience, with clipped ratios and a penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from metarun.core.meta import Meta
from metarun.core.outer_step import Descent, Facts, MetaBatch, OuterStep

if TYPE_CHECKING:
    from metarun.core.outer import OuterSettings


class ProximalStep(OuterStep):
    """Descend mean over tasks of -mean min(ratio A, clip(ratio) A) + penalty * KL before the inner steps, by Adam.

    At the parameters that collected the data every ratio is 1 and the KL divergence is smallest, so the gradient of
    the first of the steps is the meta-gradient itself.

    Args:
        settings: the outer step's settings.
        meta: meta-parameters, moved in place.

    Source: Rothfuss et al. 2019, "ProMP: proximal meta-policy search", equation 14.
    """

    def __init__(self, settings: OuterSettings, meta: Meta):
        self.steps, self.meta, self.adam = settings.promp.steps, meta, Descent(settings, meta, adam=True)

    def step(self, grads: Meta, progress: float, batch: MetaBatch) -> Facts:
        facts = self.adam.step(grads, progress, batch)
        clipped = torch.zeros_like(facts["grad_norm"])
        for _ in range(self.steps - 1):
            grads, clipped = batch.gradient(self.meta)
            self.adam.step(grads, progress, batch)
        return {**facts, "kl": batch.trial(self.meta).kl, "clipped": clipped}

    def rates(self) -> dict[str, float]:
        return self.adam.rates()

    def state_dict(self) -> dict[str, Any]:
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state)
