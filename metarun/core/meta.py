"""Meta-parameters: the values that meta-training learns, in one field for each kind."""

from __future__ import annotations

from typing import NamedTuple

from metarun.core.tree import Params

OWN = "inner."  # prefix, in files, of names that do not belong to the model
STEP_SIZES = "inner.lr."


class Meta(NamedTuple):
    """Everything that meta-training learns.

    Attributes:
        model: the network's parameters.
        step_sizes: learned step sizes, by the name of the parameter that they belong to.
        inner_state: state with which a task's inner optimiser begins (Reptile's moments).
    """

    model: Params
    step_sizes: Params
    inner_state: Params

    @staticmethod
    def of(model: Params, *, step_sizes: Params | None = None, inner_state: Params | None = None) -> Meta:
        """Make meta-parameters; the other parts are empty by default."""
        return Meta(model, step_sizes or {}, inner_state or {})

    def flat(self) -> Params:
        """Put all into one dict, as in checkpoints, with the names ``NAME``, ``inner.lr.NAME`` and ``inner.NAME``."""
        sizes = {STEP_SIZES + name: value for name, value in self.step_sizes.items()}
        return {**self.model, **sizes, **{OWN + name: value for name, value in self.inner_state.items()}}

    @staticmethod
    def from_flat(flat: Params) -> Meta:
        """Undo ``flat``."""
        meta = Meta({}, {}, {})
        for name, value in flat.items():
            if name.startswith(STEP_SIZES):
                meta.step_sizes[name.removeprefix(STEP_SIZES)] = value
            elif name.startswith(OWN):
                meta.inner_state[name.removeprefix(OWN)] = value
            else:
                meta.model[name] = value
        return meta
