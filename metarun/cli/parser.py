"""What the commands share: flags and settings, wherever they stand among KEY=VALUE words."""

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
    """argparse whose errors are ``UserError``, and which leaves KEY=VALUE words, wherever they stand, to the command.

    Args:
        more: text that ends ``--help``, made when it is asked for.
    """

    def __init__(self, more: Callable[[], str] | None = None, **settings: Any):
        super().__init__(**settings)
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self.more, self.settings = more, set[str]()
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        version = f"metarun {__version__}"
        self.add_argument("--version", action="version", version=version, help="show the version and exit")

    def setting(self, name: str, metavar: str, help: str, default: str | None = None) -> None:
        """A value of the command itself, typed as NAME=VALUE or --NAME VALUE."""
        self.settings.add(name)
        self.add_argument(f"--{name}", metavar=metavar, default=default, help=f"{help}; also {name}={metavar}")

    def as_flags(self, words: list[str]) -> list[str]:
        """The words with settings as flags. Raises ``UserError`` for one without a value."""
        settings = [word for word in words if "=" in word and word.partition("=")[0] in self.settings]
        for word in settings:
            if not word.partition("=")[2].strip():
                raise UserError(f"{word}: {UNSET}")
        return [f"--{word}" if word in settings else word for word in words]

    def check(self, given: argparse.Namespace, left: list[str]) -> None:
        """Raise ``UserError`` for a setting without a value, and for a flag among the words that are left."""
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
    """A flag that means nothing here. Raises ``UserError`` with what to do ``instead``."""

    def __init__(self, option_strings: list[str], dest: str, instead: str):
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS)
        self.instead = instead

    def __call__(self, *_: Any) -> NoReturn:
        raise UserError(f"{self.option_strings[0]}: {self.instead}")


def require_folder(out: Path) -> None:
    """Raise ``UserError`` where a file is in the place of the folder ``out``, or of one above it."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    require(there.is_dir(), "out", out, "a folder" if there == out else f"a folder, and {there} is a file")
