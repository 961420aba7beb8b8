"""Settings of the outer step, which every method has."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, fields

from metarun.core.meta import Meta
from metarun.core.outer_settings import ProMP, TrustRegion
from metarun.core.outer_step import Descent, OuterStep
from metarun.core.proximal import ProximalStep
from metarun.core.trust_region import TrustRegionStep
from metarun.errors import require


class OuterOptimizer(enum.Enum):
    """Rule of the outer step.

    Attributes:
        adam: torch's Adam with its default betas.
        sgd: SGD without momentum.
        trpo: a trust region, for policies (trust_region.py).
        promp: several Adam steps on the same experience, for policies (proximal.py).
    """

    adam = "adam"
    sgd = "sgd"
    trpo = "trpo"
    promp = "promp"

    @property
    def asks(self) -> bool:
        """Whether the rule asks for more than the meta-gradient, which only policies can answer."""
        return self in (OuterOptimizer.trpo, OuterOptimizer.promp)

    @property
    def is_adam(self) -> bool:
        """Whether the rule moves by Adam."""
        return self in (OuterOptimizer.adam, OuterOptimizer.promp)


class Schedule(enum.Enum):
    """Schedule of the outer learning rate.

    Attributes:
        none: constant.
        cosine: half a cosine from the first value to 0.
        linear: a line from the first value to 0.
    """

    none = "none"
    cosine = "cosine"
    linear = "linear"

    def factor(self, progress: float) -> float:
        """Return the learning rate at ``progress`` (0..1) of the run, as a share of the first one."""
        if self is Schedule.cosine:
            return (1 + math.cos(math.pi * progress)) / 2
        return 1 - progress if self is Schedule.linear else 1.0


@dataclass(kw_only=True, slots=True)
class OuterSettings:
    """Settings of the outer step; keys: ``algo.outer_*``, ``algo.clip_*``, ``algo.trust_region.*``, ``algo.promp.*``.

    Attributes:
        outer_optimizer: rule of the outer step.
        outer_lr: first learning rate.
        outer_eps: epsilon of outer Adam.
        outer_schedule: schedule of the learning rate.
        clip_value: bound on each entry of the meta-gradient; null: none.
        clip_norm: bound on the global norm of the meta-gradient; null: none.
        trust_region: settings of ``trpo``.
        promp: settings of ``promp``.
    """

    outer_optimizer: OuterOptimizer
    outer_lr: float
    outer_eps: float
    outer_schedule: Schedule
    clip_value: float | None
    clip_norm: float | None
    trust_region: TrustRegion = field(default_factory=TrustRegion)
    promp: ProMP = field(default_factory=ProMP)

    def __post_init__(self) -> None:
        require(self.outer_lr > 0, "outer_lr", self.outer_lr, "> 0")
        require(self.outer_eps > 0, "outer_eps", self.outer_eps, "> 0")
        for name in ("clip_value", "clip_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "> 0, or null for none")

    def unread(self) -> dict[str, str]:
        """Map each field that has no effect with these settings to the setting that would use it."""
        rule, unread = self.outer_optimizer, dict[str, str]()
        if not rule.is_adam:
            unread["outer_eps"] = "algo.outer_optimizer=adam or promp"
        if rule is OuterOptimizer.trpo:
            descent = ("outer_lr", "outer_schedule", "clip_value", "clip_norm")
            unread |= dict.fromkeys(descent, "algo.outer_optimizer=adam, sgd or promp")
        else:
            unread |= {f"trust_region.{part.name}": "algo.outer_optimizer=trpo" for part in fields(TrustRegion)}
        if rule is not OuterOptimizer.promp:
            unread |= {f"promp.{part.name}": "algo.outer_optimizer=promp" for part in fields(ProMP)}
        return unread

    def depends_on_length(self) -> list[str]:
        """List the settings with which a meta-iteration depends on how many there will be, by ``progress``."""
        moves = self.outer_schedule is not Schedule.none and self.outer_optimizer is not OuterOptimizer.trpo
        return ["algo.outer_schedule"] if moves else []

    def is_proportional(self) -> bool:
        """Whether the outer step is the meta-gradient times a number."""
        return self.outer_optimizer is OuterOptimizer.sgd and self.clip_value is None and self.clip_norm is None

    def moments(self) -> int:
        """Return how many numbers the outer step keeps for each parameter."""
        return 2 if self.outer_optimizer.is_adam else 0

    def outer_step(self, meta: Meta) -> OuterStep:
        """Make the rule that moves these meta-parameters in place."""
        if self.outer_optimizer is OuterOptimizer.trpo:
            return TrustRegionStep(self.trust_region, meta)
        if self.outer_optimizer is OuterOptimizer.promp:
            return ProximalStep(self, meta)
        return Descent(self, meta, adam=self.outer_optimizer.is_adam)
