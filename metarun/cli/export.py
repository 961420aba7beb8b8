"""``metarun export``: a trained network for use without metarun."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from metarun.cli.adapt import adapt, loaded, model, require_alone
from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, require

if TYPE_CHECKING:
    from metarun.learner.adapted import Adapted
    from metarun.learner.learner import Learner


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "export",
        usage="metarun export run=PATH|zoo:NAME [support=DIR|FILE]|model=MODEL out=DIR [format=FORMAT] [KEY=...]",
        description="Writes a run's network into a new folder, for use without metarun: weights, load.py, which loads\n"
        "them in ten lines, config.json, classes.json, and README.md, a card with what was measured and how. With\n"
        "support the network is adapted to it and frozen, as metarun adapt does; without, it is the initialisation.\n"
        "The model that metarun adapt wrote is frozen already, and is written as it is.\n"
        "What was written is loaded again and compared with the original. Formats: state_dict (torch's file of\n"
        "tensors, with the network as a Python file), safetensors (the same), torch_export (a graph of torch's\n"
        "operations), onnx (one file, for ONNX Runtime). Keys: algo.eval_inner_steps and others of algo that a test\n"
        "reads, device, dataset.delimiter (of FILE).",
        epilog="  metarun export run=outputs/RUN support=photos/known out=fruit format=onnx\n"
        "  metarun export model=fruit.model out=adapted",
    )
    command.setting("run", "PATH|zoo:NAME", "the run's folder, or an entry of the zoo")
    command.setting("model", "MODEL", "the file that metarun adapt wrote, instead of a run")
    command.setting("support", "DIR|FILE", "the examples to adapt to, as for metarun adapt")
    command.setting("out", "DIR", "the folder to write, which must be new or empty")
    command.setting("format", "FORMAT", "state_dict, safetensors, torch_export or onnx", default="state_dict")
    command.setting("checkpoint", "best|last", "which parameters to take (the run's own choice)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Write the folder. Returns the exit status."""
    if given.run is None and given.model is None:
        raise UserError("run: has no value, and needs one: metarun export run=PATH [support=DIR] out=DIR")
    if given.out is None:
        raise UserError("out: has no value, and needs one: the folder to write")
    require(given.model is None or given.run is None, "model", given.model, "left out where run=PATH is given")
    require_alone(given)
    from metarun.files import require_new_folder, user_path
    from metarun.learner.export import export
    from metarun.learner.formats import Format

    out, format = user_path(given.out), Format.of(given.format)
    require_new_folder(out, "out")
    of = _subject(given)
    with of.setup.experiment.device.applied():
        export(of, out, format.name, command=_command(given))
    files = ", ".join(sorted(path.name for path in out.iterdir()))
    print(f"written: {out} ({files}); loaded again, its outputs are those of the original")
    return 0


def _subject(given: argparse.Namespace) -> Adapted | Learner:
    """What the command line names: a model, a run adapted to a support set, or a run."""
    if given.model is not None:
        return model(given, given.words)
    return adapt(given, given.words) if given.support else loaded(given, given.words)


def _command(given: argparse.Namespace) -> list[str]:
    """The command as words, for the card."""
    settings = ("run", "model", "support", "out", "format", "checkpoint")
    typed = [f"{name}={getattr(given, name)}" for name in settings if getattr(given, name) is not None]
    return ["export", *typed, *given.words]
