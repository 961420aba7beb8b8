"""``metarun predict``: classify picture files, or predict rows of a table, with an adapted run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.cli.adapt import adapt, model, require_alone, require_file
from metarun.cli.parser import Parser
from metarun.engine.ranks import Ranks
from metarun.errors import UserError, one_line, require

if TYPE_CHECKING:
    from metarun.core.batch_norm import Norm
    from metarun.learner.adapted import Adapted
    from metarun.learner.predict import Predictions

NORM = "eval.norm="
BESIDE = (".png", "_confusion.csv", "_confusion.png")  # ends of the names of what is written beside the CSV file


def parser(add: Callable[..., Parser]) -> None:
    """Add the command to the parser, with ``add`` of its subparsers."""
    command = add(
        "predict",
        usage="metarun predict model=MODEL|run=PATH [support=DIR|FILE] images=DIR|FILES|rows=FILE [out=CSV] [KEY=...]",
        description="Classifies picture files. The model is what metarun adapt wrote, or a run and a support set to\n"
        "adapt to first. Each picture is a line of the CSV file: its most probable class, the probability of each\n"
        "class, or the reason why it cannot be read (then the exit status is 1). Folders in images that are named\n"
        "like classes state the truth: then there is an accuracy with a 95 % interval and a confusion table. Beside\n"
        "the CSV file are a contact sheet of the support set and the least certain pictures (.png) and the confusion\n"
        "table (_confusion.csv, _confusion.png). Batch norm uses the statistics of the support set, so no prediction\n"
        "depends on other pictures. For a run of dataset=table or arrays, rows=FILE has rows of one task: a line of\n"
        "the CSV file for each, with its class or numbers, and how well that is where the file states the truth.\n"
        "Keys: eval.norm, algo.eval_inner_steps (with run), device, dataset.delimiter (of FILE).",
        epilog="  metarun predict model=fruit.model images=photos/new\n"
        "  metarun predict run=outputs/RUN support=photos/known images=photos/new out=new.csv\n"
        "  metarun predict model=fruit.model photos/*.jpg",
    )
    command.setting("model", "MODEL", "the file that metarun adapt wrote")
    command.setting("run", "PATH|zoo:NAME", "a run's folder or an entry of the zoo, instead of a model")
    command.setting(
        "support", "DIR|FILE", "with run: a folder with a folder of pictures for each class, or a file of rows"
    )
    command.setting("images", "DIR|FILES", "a folder, a file or a pattern; further files may follow as words")
    command.setting("rows", "FILE", "instead of images: a table, or arrays, of a run of such data")
    command.setting("out", "CSV", "the file to write", default="predictions.csv")
    command.setting("checkpoint", "best|last", "with run: which parameters to adapt (the run's own choice)")


def run(given: argparse.Namespace, ranks: Ranks) -> int:
    """Predict and write the files. Returns the exit status, 1 if a picture is unreadable."""
    require((given.model is None) != (given.run is None), "model", given.model, "given, or else run=PATH support=DIR")
    if given.run is not None and given.support is None:
        raise UserError(
            "support: has no value, and run=PATH needs one: a folder with a folder of pictures for each class"
        )
    require_alone(given)
    if given.rows is not None:
        return _rows(given)
    files = [word for word in given.words if "=" not in word or Path(word).exists()]
    words = [word for word in given.words if word not in files]
    places = [*([given.images] if given.images else []), *files]
    if not places:
        raise UserError("images: has no value, and needs one: a folder, a file, or a pattern")
    from metarun.files import user_path
    from metarun.learner import pictures, predict

    out = user_path(given.out)
    require_file(out, given.out)
    norm = _norm([word for word in words if word.startswith(NORM)])
    own = [_named(out, ending) for ending in BESIDE]
    pictures.find(places, (), own)  # before minutes of adapting
    adapted = _adapted(given, [word for word in words if not word.startswith(NORM)])
    dataset = adapted.setup.experiment.dataset
    if not dataset.has_pictures():
        instead = (
            "rows=FILE has its examples" if adapted.learned else "metarun.load_adapted in Python takes its examples"
        )
        raise UserError(f"images: dataset={adapted.record.names['dataset']} has no pictures; {instead}")
    with adapted.setup.experiment.device.applied():
        found_files = pictures.find(places, [str(name) for name in adapted.classes or ()], own)
        read = pictures.read(found_files, dataset, set(adapted.digests))
        found = predict.predicted(adapted, read, norm)
    predict.write(found, out)
    print(predict.summary(adapted, found, norm))
    written = [out, *_beside(adapted, found, out)]
    print(f"written: {', '.join(map(str, written))}")
    if found.unreadable:
        first = found.unreadable[0]
        said = f"{len(found.unreadable)} of {len(read)} pictures could not be read: {first.path} ({first.reason})"
        print(f"metarun: {one_line(said)}{', ...' if len(found.unreadable) > 1 else ''}", file=sys.stderr)
    return 1 if found.unreadable else 0


def _rows(given: argparse.Namespace) -> int:
    """Predict the rows of a file. Returns the exit status."""
    if given.images is not None or any("=" not in word for word in given.words):
        raise UserError("images, rows: give one of them, and no other words")
    from metarun.files import user_path
    from metarun.learner import rows_file

    out = user_path(given.out)
    require_file(out, given.out)
    for key, read in {"rows": given.rows, "support": given.support}.items():
        if read and out.exists() and user_path(read).exists() and out.samefile(user_path(read)):
            raise UserError(f"out={given.out}: is the file of {key}=, and would be overwritten")
    norm = _norm([word for word in given.words if word.startswith(NORM)])
    adapted = _adapted(given, [word for word in given.words if not word.startswith(NORM)])
    rows = rows_file.read(adapted, user_path(given.rows), "rows")
    with adapted.setup.experiment.device.applied():
        found = rows_file.predicted(adapted, rows, norm)
    rows_file.write(adapted, found, out)
    print(f"{rows_file.summary(adapted, found, norm)}\nwritten: {out}")
    return 0


def _norm(words: list[str]) -> Norm:
    """The statistics that batch norm uses: the support set's unless ``eval.norm`` says otherwise."""
    from metarun.core.batch_norm import Norm

    return Norm.one(words[-1].removeprefix(NORM), "eval.norm") if words else Norm.support


def _adapted(given: argparse.Namespace, words: list[str]) -> Adapted:
    """The model of the command line, or a run adapted to its support set."""
    return model(given, words) if given.run is None else adapt(given, words)


def _beside(adapted: Adapted, found: Predictions, out: Path) -> list[Path]:
    """Write the figures and the confusion table beside the CSV file, and return their paths."""
    from metarun.learner import predict, sheet
    from metarun.results.axes import save

    sheets, counts, shares = (_named(out, ending) for ending in BESIDE)
    save(sheet.contact_sheet(adapted, found), sheets)
    if not found.tested:
        return [sheets]
    predict.write_confusion(found, counts)
    save(sheet.confusion(found), shares)
    return [sheets, counts, shares]


def _named(out: Path, ending: str) -> Path:
    return out.with_name(out.stem + ending)
