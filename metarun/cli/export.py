"""``metarun export``: a trained network for use without metarun."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from metarun.cli.adapt import adapt, loaded
from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError

if TYPE_CHECKING:
    from metarun.learner.adapted import Adapted
    from metarun.learner.learner import Learner


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "export",
        usage="metarun export run=PATH|zoo:NAME [support=DIR|FILE] out=DIR [format=FORMAT] [checkpoint=...] [KEY=...]",
        description="Writes a run's network into a new folder, for use without metarun: weights, load.py, which loads\n"
        "them in ten lines, config.json, classes.json, and README.md, a card with what was measured and how. With\n"
        "support the network is adapted to it and frozen, as metarun adapt does; without, it is the initialisation.\n"
        "What was written is loaded again and compared with the original. Formats: state_dict (torch's file of\n"
        "tensors, with the network as a Python file), safetensors (the same), torch_export (a graph of torch's\n"
        "operations), onnx (one file, for ONNX Runtime). Keys: algo.eval_inner_steps and others of algo that a test\n"
        "reads, device.",
        epilog="  metarun export run=outputs/RUN support=photos/known out=fruit format=onnx",
    )
    command.setting("run", "PATH|zoo:NAME", "the run's folder, or an entry of the zoo")
    command.setting("support", "DIR|FILE", "the examples to adapt to, as for metarun adapt")
    command.setting("out", "DIR", "the folder to write, which must be new or empty")
    command.setting("format", "FORMAT", "state_dict, safetensors, torch_export or onnx", default="state_dict")
    command.setting("checkpoint", "best|last", "which parameters to take (the run's own choice)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Write the folder. Returns the exit status."""
    for name in ("run", "out"):
        if getattr(given, name) is None:
            raise UserError(f"{name}: has no value, and needs one: metarun export run=PATH [support=DIR] out=DIR")
    from metarun.files import require_new_folder, user_path
    from metarun.learner.export import export
    from metarun.learner.formats import Format

    out, format = user_path(given.out), Format.of(given.format)
    require_new_folder(out, "out")
    of: Adapted | Learner = adapt(given, given.words) if given.support else loaded(given, given.words)
    with of.setup.experiment.device.applied():
        export(of, out, format.name, command=_command(given))
    files = ", ".join(sorted(path.name for path in out.iterdir()))
    print(f"written: {out} ({files}); loaded again, its outputs are those of the original")
    return 0


def _command(given: argparse.Namespace) -> list[str]:
    """The command as words, for the card."""
    settings = ("run", "support", "out", "format", "checkpoint")
    typed = [f"{name}={getattr(given, name)}" for name in settings if getattr(given, name) is not None]
    return ["export", *typed, *given.words]
