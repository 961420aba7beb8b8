"""The parser that all commands share: flags and settings may stand anywhere among KEY=VALUE words."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from metarun import __version__
from metarun.errors import UserError, require

UNSET = "has no value (an unset variable of the shell?)"


class Parser(argparse.ArgumentParser):
    """Parser of argparse that raises ``UserError`` and leaves KEY=VALUE words, wherever they stand, to the command.

    Args:
        more: makes the text that ends ``--help``; it is called only then.
        settings: arguments of ``argparse.ArgumentParser``.
    """

    def __init__(self, more: Callable[[], str] | None = None, **settings: Any):
        super().__init__(**settings)
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self.more, self.settings = more, set[str]()
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        version = f"metarun {__version__}"
        self.add_argument("--version", action="version", version=version, help="show the version and exit")

    def setting(self, name: str, metavar: str, help: str, default: str | None = None) -> None:
        """Add a setting of the command itself, typed as NAME=VALUE or --NAME VALUE.

        Args:
            name: NAME.
            metavar: word for VALUE in ``--help``.
            help: what it sets.
            default: value if it is not typed.
        """
        self.settings.add(name)
        self.add_argument(f"--{name}", metavar=metavar, default=default, help=f"{help}; also {name}={metavar}")

    def as_flags(self, words: list[str]) -> list[str]:
        """Return the words with NAME=VALUE of each setting as --NAME=VALUE.

        Raises:
            UserError: a setting has no value.
        """
        settings = [word for word in words if "=" in word and word.partition("=")[0] in self.settings]
        for word in settings:
            if not word.partition("=")[2].strip():
                raise UserError(f"{word}: {UNSET}")
        return [f"--{word}" if word in settings else word for word in words]

    def check(self, given: argparse.Namespace, left: list[str]) -> None:
        """Raise ``UserError`` if a setting has no value, or a flag is among the words ``left`` by argparse."""
        for name in self.settings:
            value = getattr(given, name)
            if value is not None and not value.strip():
                raise UserError(f"--{name}: {UNSET}")
        for word in left:
            if word.startswith("-"):
                hint = "settings are written key=value, without dashes"
                raise UserError(f"{word}: {self.prog} has no such flag; {self.prog} --help lists them, and {hint}")

    def format_help(self) -> str:
        return super().format_help() + (self.more() if self.more else "")

    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"^argument (\S+): expected one argument$", r"\1: needs a value", message))


class Refused(argparse.Action):
    """Flag that raises ``UserError``, because metarun has no use for it.

    Args:
        option_strings: the flag's spellings, from argparse.
        dest: name of its value, from argparse.
        instead: what to do instead, for the message.
    """

    def __init__(self, option_strings: list[str], dest: str, instead: str):
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS)
        self.instead = instead

    def __call__(self, *_: Any) -> NoReturn:
        raise UserError(f"{self.option_strings[0]}: {self.instead}")


def require_folder(out: Path, name: str = "out") -> None:
    """Raise ``UserError`` if the folder ``out``, which was given as ``name``, or a folder above it, is a file."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    require(there.is_dir(), name, out, "a folder" if there == out else f"a folder, and {there} is a file")
