"""Settings of the two outer steps that ask about policies. Not in outer.py: torch takes a second to import."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any

from metarun.errors import require, require_count


class Curvature(enum.Enum):
    """What conjugate gradient takes for the second derivative of the KL divergence.

    Attributes:
        exact: the second derivative itself, F v.
        differences: (g(theta + e v) - g(theta - e v)) / 2e with e = 1 / |theta|, g the gradient of the KL divergence:
            as the code published with MAML. A step that long crosses the kinks of ReLU, where a gradient jumps and
            with it the adapted policy, of which the second derivative at one point knows nothing.
    """

    exact = "exact"
    differences = "differences"


@dataclass(kw_only=True, slots=True)
class TrustRegion:
    """Settings of TRPO. The numbers are those of the code published with MAML (cbfinn/maml_rl).

    Attributes:
        max_kl: bound on the mean KL divergence of the adapted policies, before and after the step.
        curvature: of the KL divergence, for the direction and the longest step.
        cg_steps: conjugate gradient iterations for the direction.
        damping: added to the diagonal of the curvature, >= 0.
        backtrack: factor from one candidate to the next shorter one, 0..1.
        backtracks: candidates, from the longest; if none is better within the bound, nothing moves.
    """

    max_kl: float = 0.01
    curvature: Curvature = Curvature.exact
    cg_steps: int = 10
    damping: float = 1e-5
    backtrack: float = 0.8
    backtracks: int = 15

    def __post_init__(self) -> None:
        require(self.max_kl > 0, "trust_region.max_kl", self.max_kl, "> 0")
        require_count("trust_region.cg_steps", self.cg_steps, most=10**6)
        require(self.damping >= 0, "trust_region.damping", self.damping, ">= 0")
        require(0 < self.backtrack < 1, "trust_region.backtrack", self.backtrack, "> 0 and < 1")
        require_count("trust_region.backtracks", self.backtracks, most=10**6)

    @property
    def slopes(self) -> int:
        """Gradients of the KL divergence in an outer step."""
        return 2 * (self.cg_steps + 1) if self.curvature is Curvature.differences else 0


@dataclass(kw_only=True, slots=True)
class ProMP:
    """Settings of ProMP. The defaults are those of the code published with it (jonasrothfuss/ProMP).

    Attributes:
        steps: Adam steps on the same experience.
        clip: how far the ratio of the query loss counts beyond 1, > 0.
        penalty: weight of the KL divergence of the policies before their inner steps, >= 0.
    """

    steps: int = 5
    clip: float = 0.3
    penalty: float = 5e-4

    def __post_init__(self) -> None:
        require_count("promp.steps", self.steps, most=10**6)
        require(self.clip > 0, "promp.clip", self.clip, "> 0")
        require(self.penalty >= 0, "promp.penalty", self.penalty, ">= 0")


def _usual(settings: TrustRegion | ProMP) -> dict[str, Any]:
    return {key: value.value if isinstance(value, enum.Enum) else value for key, value in asdict(settings).items()}


USUAL = {"trust_region": _usual(TrustRegion()), "promp": _usual(ProMP())}  # as an experiment's file states them
