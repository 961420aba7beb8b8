"""Meta-parameters: what meta-training learns, in one field for each kind."""

from __future__ import annotations

from typing import NamedTuple

from metarun.core.tree import Params

OWN = "inner."  # what the names in files of all that is not the model's begin with
STEP_SIZES = "inner.lr."


class Meta(NamedTuple):
    """model: the network's parameters. step_sizes: learned ones, by the name of their parameter. inner_state: what the
    inner optimiser of the next task begins with (Reptile's moments)."""

    model: Params
    step_sizes: Params
    inner_state: Params

    @staticmethod
    def of(model: Params, *, step_sizes: Params | None = None, inner_state: Params | None = None) -> Meta:
        return Meta(model, step_sizes or {}, inner_state or {})

    def flat(self) -> Params:
        """One dict, as optimisers and checkpoints want it: names are ``NAME``, ``inner.lr.NAME`` and ``inner.NAME``."""
        sizes = {STEP_SIZES + name: value for name, value in self.step_sizes.items()}
        return {**self.model, **sizes, **{OWN + name: value for name, value in self.inner_state.items()}}

    @staticmethod
    def from_flat(flat: Params) -> Meta:
        """What ``flat`` was made of."""
        meta = Meta({}, {}, {})
        for name, value in flat.items():
            if name.startswith(STEP_SIZES):
                meta.step_sizes[name.removeprefix(STEP_SIZES)] = value
            elif name.startswith(OWN):
                meta.inner_state[name.removeprefix(OWN)] = value
            else:
                meta.model[name] = value
        return meta
