"""Errors of torch without a type of their own, recognised by their text. Last seen in torch 2.13."""

from __future__ import annotations

import re

OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot) allocate memory|alloc_failed|size calculation overflowed", re.I
)
AMOUNT = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.I)
UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed."""
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


def bytes_asked_for(error: Exception) -> float:
    """Return the size of an allocation that failed, in bytes; 0 if the error does not say."""
    amount = AMOUNT.search(str(error))
    return float(amount[1]) * UNITS[amount[2].lower()] if amount else 0.0


def is_one_value(error: Exception) -> bool:
    """Return whether batch norm got one value per channel, which has no variance."""
    return "more than 1 value per channel" in str(error)


def lacks_derivative(error: Exception) -> bool:
    """Return whether an operation has no derivative of the order that was computed."""
    return "derivative" in str(error) and "not implemented" in str(error)


def without_place(error: Exception) -> str:
    """Return the first sentence of a communication error, without the C++ file and line it begins with."""
    return re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).split(". ")[0]
