"""Values of a JSON file, with the types that they must have; anything else raises ``TypeError``."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float:
    """Convert a number, where null stands for one that is not finite."""
    return math.nan if value is None else value + 0.0


def whole(value: Any) -> int:
    """Return a whole number."""
    if type(value) is not int:
        raise TypeError(value)
    return value


def text(value: Any) -> str:
    """Return a text."""
    if type(value) is not str:
        raise TypeError(value)
    return value
