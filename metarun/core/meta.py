"""Meta-parameters: the values that meta-training learns, in one field for each kind."""

from __future__ import annotations

from typing import NamedTuple

from metarun.core.tree import Params

OWN = "inner."  # prefix, in files, of names that do not belong to the model
STEP_SIZES = "inner.lr."
LATER = "inner.later."


class Meta(NamedTuple):
    """Everything that meta-training learns.

    Attributes:
        model: the network's parameters.
        step_sizes: learned step sizes, by the name of the parameter that they belong to.
        later: values of a parameter of the model in the inner steps after the first one, by its name, [S-1, ...].
        inner_state: state with which a task's inner optimiser begins (Reptile's moments).
    """

    model: Params
    step_sizes: Params
    later: Params
    inner_state: Params

    @staticmethod
    def of(
        model: Params,
        *,
        step_sizes: Params | None = None,
        later: Params | None = None,
        inner_state: Params | None = None,
    ) -> Meta:
        """Make meta-parameters; the other parts are empty by default."""
        return Meta(model, step_sizes or {}, later or {}, inner_state or {})

    def flat(self) -> Params:
        """Put all into one dict, as in checkpoints: NAME, ``inner.lr.NAME``, ``inner.later.NAME``, ``inner.NAME``."""
        parts = {"": self.model, STEP_SIZES: self.step_sizes, LATER: self.later, OWN: self.inner_state}
        return {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}

    @staticmethod
    def from_flat(flat: Params) -> Meta:
        """Undo ``flat``."""
        meta = Meta.of({})
        for name, value in flat.items():
            if name.startswith(STEP_SIZES):
                meta.step_sizes[name.removeprefix(STEP_SIZES)] = value
            elif name.startswith(LATER):
                meta.later[name.removeprefix(LATER)] = value
            elif name.startswith(OWN):
                meta.inner_state[name.removeprefix(OWN)] = value
            else:
                meta.model[name] = value
        return meta
