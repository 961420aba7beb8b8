"""Progress of long work: tqdm's bar on a terminal, plain lines elsewhere, for example in a log file."""

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
    """Make a tqdm over ``items``, or one to update by hand; it writes to stderr.

    Without a terminal, ``refresh`` and ``set_postfix`` write a line at once. Time affects only what is printed.

    Args:
        items: what to iterate over; None: the caller updates the bar.
        desc: text in front.
        unit: name of one item.
        total: number of items; None: the length of ``items``.
        initial: items that are done already.
        leave: whether a terminal keeps the finished bar.
        show: False: print nothing.
    """
    settings: dict[str, Any] = {"desc": desc, "unit": unit, "total": total, "initial": initial, "leave": leave}
    if not show:
        return tqdm(items, disable=True, **settings)
    if sys.stderr.isatty():
        return tqdm(items, **settings)
    return Lines(items, file=sys.stderr, mininterval=EVERY, delay=EVERY, miniters=1, bar_format=LINE, **settings)


class Lines(tqdm):
    """tqdm that prints lines of text: the first after ``delay`` seconds, then one every ``mininterval`` seconds."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(msg or str(self), file=self.fp, flush=True)
        start_interval(self)  # after a line on request the next comes half a minute later

    def close(self) -> None:
        """Close without a last line: callers print their own when the work is done."""
        self.disable = True
