"""tqdm's own clock. Last seen in tqdm 4.70."""

from __future__ import annotations

from tqdm import tqdm


def start_interval(bar: tqdm) -> None:
    """Begin a new ``mininterval`` now, as if the bar had just been written."""
    bar.last_print_t = bar._time()
