"""The outer step of TRPO: the longest step along the natural gradient that a bound on the KL divergence allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarun.core import tree
from metarun.core.hypergrad import conjugate_gradient
from metarun.core.meta import Meta
from metarun.core.outer_settings import Curvature, TrustRegion
from metarun.core.outer_step import Facts, MetaBatch, OuterStep, Trial

TINY = 1e-8  # keeps lengths finite where the gradient is zero, or every parameter


class TrustRegionStep(OuterStep):
    """Solve (F + damping I) s = gradient, then try shorter and shorter steps along -s.

    The first candidate is as long as the quadratic model of the KL divergence allows. The first with a smaller loss
    and a KL divergence within the bound is taken. Comparisons with nan are false, so such candidates are not taken. If
    none is, the meta-parameters stay as they are, to the bit. There is no state.

    Args:
        settings: the rule's settings.
        meta: meta-parameters, moved in place.

    Source: Schulman et al. 2015, "Trust region policy optimization", appendix C.
    """

    def __init__(self, settings: TrustRegion, meta: Meta):
        self.settings, self.meta = settings, meta

    def step(self, grads: Meta, progress: float, batch: MetaBatch) -> Facts:
        settings, exact = self.settings, self.settings.curvature is Curvature.exact
        product = batch.fisher(self.meta) if exact else self._differences(batch)

        def system(v: Meta) -> Meta:
            return tree.add_scaled(product(v), settings.damping, v)

        before = batch.trial(self.meta)
        direction, residual = conjugate_gradient(system, grads, settings.cg_steps)
        # s^T (F + damping I) s: for differences, which are not linear in s, the residual is not that of s
        image = tree.subtract(grads, residual) if exact else system(direction)
        curvature = tree.dot(direction, image)
        longest = (2 * settings.max_kl / (curvature + TINY)).sqrt()
        after, share, tries = self._search(batch, before, tree.scale(longest, direction), bool(curvature > 0))
        moved = longest * share * tree.norm(direction) if share else torch.zeros_like(longest)
        return {
            "grad_norm": tree.norm(grads),
            "kl": after.kl,
            "kl_before": before.kl,
            "loss_before": before.loss,
            "loss_after": after.loss,
            "backtracks": _number(tries, moved),
            "rejected": _number(share == 0, moved),
            "step_norm": moved,
        }

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to load."""

    def _differences(self, batch: MetaBatch) -> Callable[[Meta], Meta]:
        """Return v -> the change of the KL divergence's gradient along v, as ``Curvature.differences`` states it."""
        apart = 1 / (tree.norm(self.meta) + TINY)

        def product(v: Meta) -> Meta:
            ahead, behind = (batch.slope(tree.add_scaled(self.meta, sign * apart, v)) for sign in (1, -1))
            return tree.scale(1 / (2 * apart), tree.subtract(ahead, behind))

        return product

    def _search(self, batch: MetaBatch, before: Trial, longest: Meta, sound: bool) -> tuple[Trial, float, int]:
        """Move to the first candidate that is good enough.

        Args:
            batch: the meta-batch.
            before: the present meta-parameters, judged.
            longest: the longest step, to be subtracted.
            sound: whether there is any; False: the direction is zero or not finite.

        Returns:
            (where the meta-parameters are now, judged; share of the longest step that was taken; shorter steps tried).
        """
        for tries in range(self.settings.backtracks if sound else 0):
            share = self.settings.backtrack**tries
            candidate = tree.add_scaled(self.meta, -share, longest)
            found = batch.trial(candidate)
            if found.loss < before.loss and found.kl <= self.settings.max_kl:
                for parameter, value in zip(tree.leaves(self.meta), tree.leaves(candidate), strict=True):
                    parameter.copy_(value)
                return found, share, tries
        return before, 0.0, self.settings.backtracks if sound else 0


def _number(value: float, like: Tensor) -> Tensor:
    return like.new_tensor(float(value))
