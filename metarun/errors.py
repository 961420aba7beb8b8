"""Errors that a user can act on: one line of text and an exit status, never a traceback.

Exit statuses: 2 for unusable input (configuration, data, run folders, too little memory), 3 for a run that stopped
because its numbers are not finite, 128 + signal for a run that a signal stopped after its state was saved.
"""

from __future__ import annotations

import difflib
import enum
import types
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Unusable input; the message names it and what is allowed."""

    status = 2


class ConfigError(UserError):
    """A configuration value is not allowed.

    Args:
        key: dotted key as typed on the command line, e.g. ``algo.inner_steps``.
        value: the value that is not allowed.
        allowed: the allowed values, in words.
    """

    def __init__(self, key: str, value: object, allowed: str):
        self.key, self.value, self.allowed = key, value, allowed
        super().__init__(f"{key}={'null' if value is None else value}: must be {allowed}")

    def under(self, group: str) -> ConfigError:
        """Return the same error with the key below ``group``, as seen from the root of the configuration."""
        return ConfigError(f"{group}.{self.key}", self.value, self.allowed)

    def __reduce__(self) -> tuple[type, tuple]:  # sweeps send errors between processes
        return ConfigError, (self.key, self.value, self.allowed)


class TooFewExamples(UserError):
    """Classes hold fewer examples than a task needs.

    Args:
        said: the number that a task needs and the number that exists.
        rest: other remedies, written after ``keys``.
        keys: keys of the configuration that set the number.
    """

    def __init__(self, said: str, rest: str, keys: str = "shot or query"):
        self.said, self.rest, self.keys = said, rest, keys
        super().__init__(f"{said}; lower {keys}{rest}")

    def __reduce__(self) -> tuple[type, tuple]:  # sweeps send errors between processes
        return TooFewExamples, (self.said, self.rest, self.keys)


class OutOfMemory(UserError):
    """An allocation failed. If it failed on one rank only, the other ranks do not notice."""


class NotFinite(UserError):
    """The loss or the meta-gradient is not finite."""

    status = 3


class RankLost(ConnectionError):
    """Another process of this run is gone or does not answer. Not a ``UserError``: the ranks are out of step."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived, and the state was saved. Not an ``Exception``, because it must also stop a sweep.

    Args:
        message: the text for the user.
        signal_number: number of the signal; the exit status is 128 more.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number


@contextmanager
def in_folder(run_dir: Path) -> Iterator[None]:
    """Add the attribute ``run_dir``, the run folder, to errors that are raised inside the context."""
    try:
        yield
    except (UserError, OSError) as error:
        vars(error)["run_dir"] = run_dir
        raise


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise ``ConfigError`` unless the condition holds."""
    if not holds:
        raise ConfigError(key, value, allowed)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require_count(key: str, value: int, least: int = 1, most: int = 10**9) -> None:
    """Raise ``ConfigError`` for a value below ``least`` or above ``most``, with which a run would never end."""
    require(value >= least, key, value, f">= {least}")
    require(value <= most, key, value, f"<= {most}: more would never come to an end")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean x?)`` if a choice is similar, ignoring case, else an empty text."""
    return _did_you_mean(word, {choice: choice for choice in choices})


def did_you_mean_key(key: str, keys: Iterable[str]) -> str:
    """Return the same for a dotted key. Only last words are compared, since equal first words make all keys similar."""
    return _did_you_mean(key.rpartition(".")[2], {known.rpartition(".")[2]: known for known in keys})


def _did_you_mean(word: str, choices: dict[str, str]) -> str:
    spelt = {written.lower(): choice for written, choice in choices.items()}
    near = difflib.get_close_matches(word.lower(), spelt, n=1)
    return f" (did you mean {spelt[near[0]]}?)" if near else ""


def meant(kind: Any, value: object) -> str:
    """Return a hint for a value that does not have its declared type ``kind``, or an empty text."""
    if kind is int and isinstance(value, float) and value.is_integer():
        return f" (did you mean {value:.0f}?)"
    if isinstance(value, str) and any(typing.get_origin(k) is list for k in (kind, *typing.get_args(kind))):
        return f" (did you mean [{value}]?)"
    is_choice = isinstance(kind, type) and issubclass(kind, enum.Enum)
    return did_you_mean(str(value), [member.name for member in kind]) if is_choice else ""


def one_line(text: str) -> str:
    """Escape line breaks and other control characters, as in a Python string."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_words(kind: Any) -> str:
    """Describe in words the values that a declared type allows."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if kind in plain:
        return plain[kind]
    if typing.get_origin(kind) is list:
        return f"a list, each {in_words(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(in_words(k) for k in typing.get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"one of {', '.join(member.name for member in kind)}"
    return str(kind)
