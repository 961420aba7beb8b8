"""Progress of long work: tqdm's bar on a terminal, and plain lines where there is none, as a log file wants them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from metarun.compat.tqdm import start_interval

EVERY = 30.0  # seconds between two lines
LINE = "{desc}: {unit} {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left{postfix}"


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    leave: bool = False,
    show: bool = True,
) -> tqdm:
    """A tqdm over ``items``, or one to be updated by hand; it writes to stderr.

    leave: whether a terminal keeps the finished bar. show: False for silence. ``refresh`` (and ``set_postfix``) write
    a line at once where there is no terminal. The clock decides what is printed and nothing else.
    """
    settings: dict[str, Any] = {"desc": desc, "unit": unit, "total": total, "initial": initial, "leave": leave}
    if not show:
        return tqdm(items, disable=True, **settings)
    if sys.stderr.isatty():
        return tqdm(items, **settings)
    return Lines(items, file=sys.stderr, mininterval=EVERY, delay=EVERY, miniters=1, bar_format=LINE, **settings)


class Lines(tqdm):
    """tqdm's numbers as lines of text: none before ``delay`` seconds, then one every ``mininterval``."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(msg or str(self), file=self.fp, flush=True)
        start_interval(self)  # so that a line on request starts a new half minute

    def close(self) -> None:
        """Without the line that a bar leaves behind: what was made follows in words of its own."""
        self.disable = True
