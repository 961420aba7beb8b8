"""Check that a network is a pure function of its parameters and its input, by running it a few times.

All other code relies on this: a method may repeat a forward pass to differentiate it, a trace replays it, a run that
was killed must end with the same bits, and tasks run side by side. A network is refused if it draws random numbers,
writes to its buffers or parameters, or remembers earlier calls.
"""

from __future__ import annotations

import pickle
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metarun.compat import torch_pytree as pytree
from metarun.compat.torch_tensors import is_lazy, is_wrapped, times_written
from metarun.core.tree import Params
from metarun.errors import UserError

BATCH = 2  # examples; batch norm needs more than one
INPUTS = (0, 1, 0, 0)  # input of each call; shows a dependence on the last input or on odd and even calls
LATE = (100, 10**6 - 1, 10**6)  # values that counters are set to, to find effects of late or of every n-th call
GENERATORS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.get_rng_state().numpy(),  # a pickled tensor is different each time
    "Python's random": random.getstate,
    "numpy.random": np.random.get_state,
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (on the CPU), Python and numpy inside the context; restore them after it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class Passed(NamedTuple):
    """One layer's behaviour in one call.

    Attributes:
        layer: name of the layer.
        drew: names of the ``GENERATORS`` that it drew from.
        inputs: checksums of the input tensors.
        outputs: checksums of the output tensors.
    """

    layer: str
    drew: list[str]
    inputs: list[int]
    outputs: list[int]


def require_pure(
    module: nn.Module, forward: Callable[[Params, Tensor], Tensor], input_shape: tuple[int, ...], outputs: int
) -> None:
    """Check that a network is a pure function.

    Args:
        module: the network. It is run and may change, so do not use it afterwards.
        forward: (params, x) -> outputs, as the network is run later.
        input_shape: shape of one example.
        outputs: expected width of the output.

    Raises:
        UserError: it is not pure; the message names the layer and the reason.
    """
    lazy = next((name for name, p in (*module.named_parameters(), *module.named_buffers()) if is_lazy(p)), None)
    if lazy:
        raise UserError(f"model: {lazy} has no shape before a first forward pass; make one in build, or say the sizes")
    generator = torch.Generator().manual_seed(0)
    batches = torch.rand(2, BATCH, *input_shape, generator=generator)
    params = {name: p.detach() for name, p in module.named_parameters()}
    first: dict[int, list[Passed]] = {}
    for call, chosen in enumerate(INPUTS):
        before, plain = _tensors(module), _plain(module)
        with seeded(call):  # a new seed each time, to find a network that draws and then restores the generator
            passed = _run(module, forward, params, batches[chosen], outputs)
        _same_tensors(module, before)
        for layer in passed:
            if layer.drew:
                raise UserError(
                    f"model: {_place(module, layer.layer)} draws random numbers in forward, from {layer.drew[0]}; "
                    f"{_remedy(module, layer.layer)}"
                )
        _same_outputs(module, first.setdefault(chosen, passed), passed)
    _counts_for_nothing(module, plain, lambda: _run(module, forward, params, batches[0], outputs), first[0])


def _run(
    module: nn.Module, forward: Callable[[Params, Tensor], Tensor], params: Params, x: Tensor, outputs: int
) -> list[Passed]:
    """Run the network; list each layer's behaviour, the network last. Raises ``UserError`` if it fails."""
    entered: list[tuple[str, list[bytes], list[int]]] = []
    passed: list[Passed] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda layer, args, kwargs: entered.append((name, _generators(), _checksums((args, kwargs))))

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        name, before, inputs = entered.pop()
        drew = [which for which, a, b in zip(GENERATORS, before, _generators(), strict=True) if a != b]
        passed.append(Passed(name, drew, inputs, _checksums(output)))

    shape, written = list(x.shape), times_written(x)
    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            hooks.enter_context(layer.register_forward_pre_hook(enter(name), prepend=True, with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(leave))
        try:
            y = forward(params, x)
        except Exception as error:  # a user's network may raise anything
            place = _place(module, entered[-1][0] if entered else "")
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"model: {place} fails on a batch of shape {shape}: {reason}") from error
    if times_written(x) > written:
        raise UserError("model: the network writes to its input in forward; no layer with inplace=True may see it")
    given = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
    if given != [len(x), outputs]:
        raise UserError(f"model: the network gives {given} for a batch of shape {shape}, not {[len(x), outputs]}")
    return passed


def _same_tensors(module: nn.Module, before: dict[str, list[int]]) -> None:
    now = _tensors(module)
    for name, value in before.items():
        if now.get(name) != value:
            kind = "parameter" if name in dict(module.named_parameters()) else "buffer"
            layer, _, own = name.rpartition(".")
            raise UserError(
                f"model: {_place(module, layer)} writes to its {kind} {own} in forward; "
                "a forward pass has to leave them as they are"
            )


def _same_outputs(module: nn.Module, want: list[Passed], got: list[Passed]) -> None:
    """Refuse different outputs for equal inputs; name the innermost layer that causes them, else the network."""
    if want[-1].outputs == got[-1].outputs:
        return
    pairs = [(a, b) for a, b in zip(want, got, strict=False) if a.layer == b.layer and a.inputs == b.inputs]
    blamed = next((a.layer for a, b in pairs if a.outputs != b.outputs), "")
    raise UserError(f"model: {_place(module, blamed)} gives other outputs for equal inputs; {_remedy(module, blamed)}")


def _counts_for_nothing(
    module: nn.Module, before: dict[tuple[str, str], Any], run: Callable[[], list[Passed]], want: list[Passed]
) -> None:
    """Refuse an attribute that ``forward`` changes if the outputs depend on it, now or in a later call."""
    changed = {key: value for key, value in _plain(module).items() if before.get(key) != value}
    for late in LATE if changed else ():
        for (layer, name), value in changed.items():
            setattr(module.get_submodule(layer), name, not value if isinstance(value, bool) else late)
        try:
            same = run()[-1].outputs == want[-1].outputs
        except UserError:
            same = False
        if not same:
            (layer, name), *_ = changed
            raise UserError(
                f"model: {_place(module, layer)} changes its {name} in forward, and outputs depend on it; "
                f"{_remedy(module, layer)}"
            )


def _place(module: nn.Module, layer: str) -> str:
    kind = type(module.get_submodule(layer)).__name__
    return f"layer {layer} ({kind})" if layer else f"the network itself ({kind})"


def _remedy(module: nn.Module, layer: str) -> str:
    """Advice on how to build the layer instead."""
    for name in ("p", "dropout"):
        value = getattr(module.get_submodule(layer), name, None)
        if isinstance(value, int | float) and value > 0:
            return f"build it with {name}=0"
    return "outputs must depend on parameters and input alone"


def _generators() -> list[bytes]:
    return [pickle.dumps(state()) for state in GENERATORS.values()]


def _checksums(nest: Any) -> list[int]:
    """Checksums of the tensors in a pytree."""
    tensors = [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]
    leaves = [leaf for leaf in tensors if not is_wrapped(leaf)]  # without tensors inside a transform in the network
    # copies: a column of a matrix is not contiguous, and only contiguous memory can be viewed as bytes
    dense = [leaf.detach().clone(memory_format=torch.contiguous_format).view(-1) for leaf in leaves]
    return [zlib.crc32(leaf.view(torch.uint8).cpu().numpy().data) for leaf in dense]


def _tensors(module: nn.Module) -> dict[str, list[int]]:
    return {name: _checksums(value) for name, value in (*module.named_parameters(), *module.named_buffers())}


def _plain(module: nn.Module) -> dict[tuple[str, str], Any]:
    """The numbers among the attributes of every layer."""
    return {
        (layer, name): value
        for layer, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, bool | int | float)
    }
