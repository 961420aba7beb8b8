"""The zoo: run folders that come with metarun, of finished recipes, each with its tested meta-parameters alone."""

from __future__ import annotations

from pathlib import Path

import metarun
from metarun.errors import UserError, did_you_mean
from metarun.files import user_path
from metarun.runs.folder import OUTPUTS
from metarun.runs.record import CONFIG

PREFIX = "zoo:"
PAGE = "README.md"


def folder() -> Path | None:
    """Return the zoo's folder: inside the package in an installed wheel, beside it in a checkout; None: neither."""
    package = Path(metarun.__file__).parent
    return next((path for path in (package / "zoo", package.parent / "zoo") if (path / PAGE).exists()), None)


def names(zoo: Path) -> list[str]:
    """List the entries of a zoo, such as ``omniglot/maml_5w1s``."""
    return sorted(path.parent.relative_to(zoo).as_posix() for path in zoo.glob(f"*/*/{CONFIG}"))


def run_folder(typed: str | Path) -> Path:
    """Convert what a user typed for a run, a folder or ``zoo:NAME``, to the path of the run folder.

    Raises:
        UserError: the zoo has no such entry, or is not installed.
    """
    if not str(typed).startswith(PREFIX):
        return user_path(typed)
    zoo, name = folder(), str(typed).removeprefix(PREFIX).strip("/")
    known = names(zoo) if zoo else []
    if zoo is None or not known:
        raise UserError(f"{typed}: this installation has no zoo; the repository has it in its folder zoo")
    if name not in known:
        raise UserError(f"{typed}: the zoo has no such entry{did_you_mean(name, known)}; it has: {', '.join(known)}")
    return zoo / name


def evaluations(run_dir: Path) -> Path:
    """Return the folder for later tests of a run: its own ``eval``, and for an entry of the zoo one in ``outputs``."""
    zoo, place = folder(), run_dir.resolve()
    if zoo is None or zoo.resolve() not in place.parents:
        return run_dir / "eval"
    return OUTPUTS / "zoo" / place.relative_to(zoo.resolve()) / "eval"
