"""``metarun bench``: how fast a meta-step is."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, require

UNREAD = ("init", "extend", "tracker")  # keys that make a training another one, and none of its meta-steps faster


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "bench",
        usage="metarun bench [KEY=VALUE ...] [--compare reference] [--seconds S] [--json FILE]",
        description="Meta-steps of a configuration, as metarun train would run them, on random data of the same\n"
        "shape: median throughput with its range, peak memory, the share of time in convolutions and matrix\n"
        "products. steps decides what compiling is worth, as in training.",
        epilog="  metarun bench dataset=omniglot model=conv4_pool query=15 meta_batch=32 --compare reference\n"
        "  metarun bench dataset=sinusoid device.compile=false --seconds 5",
    )
    command.setting(
        "compare",
        "reference",
        "take turns with the plain PyTorch loop of benchmarks/reference_loop.py (MAML and FOMAML), and print the ratio",
    )
    command.setting("seconds", "S", "how long to measure (10)", default="10")
    command.setting("json", "FILE", "also write the numbers to this file")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Measure and print; with ``--json`` also write a file. Returns the exit status."""
    if given.compare not in (None, "reference"):
        raise UserError(f"--compare {given.compare}: must be reference")
    try:
        seconds = float(given.seconds)
    except ValueError:
        raise UserError(f"--seconds {given.seconds}: must be a number") from None
    require(0 < seconds < 1e6, "--seconds", given.seconds, "> 0, and less than a million")
    for word in given.words:
        key = word.lstrip("+~").partition("=")[0]
        if key.split(".")[0] in UNREAD:
            raise UserError(f"{word}: bench does not read it, since its speed would be the same; leave it out")
    from metarun.config import names

    names.check(given.words)
    from metarun.files import user_path, write_json

    file = user_path(given.json) if given.json else None
    # before the measuring, which takes a while; a device such as /dev/stdout would be put aside for a file
    fit = file is None or (file.parent.is_dir() and (file.is_file() or not file.exists()))
    require(fit, "--json", given.json, "a plain file in an existing folder")
    from metarun import config
    from metarun.verify import speed

    experiment, _ = config.compose(given.words)
    result = speed.measure(experiment, seconds, compare=given.compare == "reference")
    print(speed.table(result))
    if file is not None:
        write_json(file, {"command": ["metarun", "bench", *given.words], **result})
    return 0
