"""A data set to look at: pictures of its classes and of its tasks, as PNG files and as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from metarun.core.episode import TaskFigure
from metarun.datasets.base import Split, Tasks
from metarun.datasets.sampler import ClassPool
from metarun.errors import UserError
from metarun.files import write_atomic, write_text
from metarun.results import class_rows, data_page, task_figures
from metarun.results.axes import png
from metarun.results.class_rows import Part
from metarun.results.data_page import Pictured, Sheet
from metarun.results.grid import Grid
from metarun.runs import setup
from metarun.runs.experiment import Experiment
from metarun.runs.meta_test import tasks_drawn

EXAMPLES, TASKS, WAY = 10, 3, 20  # of a class, of a split, and classes of a task
OVERVIEW = 8  # classes of each split in classes.png
LISTED = 300  # classes in the table
CLASSES = "classes.png"


def write(name: str, experiment: Experiment, out: Path, classes: int) -> list[Path]:
    """Draw a data set.

    Args:
        name: name of the data set.
        experiment: settings of the data set and of its tasks.
        out: the folder to write to.
        classes: classes of each split on the page.

    Returns:
        The files that were written: pictures and, last, the page.

    Raises:
        UserError: the data cannot be loaded.
    """
    tasks = setup.load(experiment, torch.device("cpu"))
    splits = [split for split in Split if tasks.has(split)]
    files, pictures = dict[str, bytes](), list[Pictured]()
    if isinstance(tasks, ClassPool):
        ink, kind = experiment.dataset.ink, tasks.figure
        overview = class_rows.drawn(kind, [_part(tasks, split, OVERVIEW) for split in splits], ink)
        if overview is not None:
            files[CLASSES] = png(overview)
        for part, split in ((_part(tasks, split, classes), split) for split in splits):
            figure = class_rows.drawn(kind, [part._replace(title="")], ink)
            if figure is not None:
                pictures.append(Pictured(f"Classes of {split.name}", part.title, png(figure)))
    of_tasks, without = _tasks(tasks, splits, experiment)
    if of_tasks:
        files[task_figures.NAMES[tasks.figure]] = of_tasks[-1].png
    out.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_atomic(out / file, content)
    sheet = _sheet(name, experiment, tasks, [*of_tasks, *pictures], without)
    write_text(out / data_page.NAME, data_page.text(sheet))
    return [*(out / file for file in files), out / data_page.NAME]


def _part(tasks: ClassPool, split: Split, most: int) -> Part:
    """Choose classes of a split, evenly from its list, with their first examples."""
    sizes = tasks.sizes(split)
    names, shown = list(sizes), min(most, len(sizes))
    chosen = [i * len(names) // shown for i in range(shown)]
    found = {
        names[c]: tasks.look_up(split, torch.tensor(c), torch.arange(min(EXAMPLES, sizes[names[c]])), torch.tensor(0))
        for c in chosen
    }
    least, largest = min(sizes.values()), max(sizes.values())
    each = f"{largest:,}" if least == largest else f"{least:,} to {largest:,}"
    which = "all" if shown == len(names) else f"{shown} of"
    few = "all" if largest <= EXAMPLES else f"the first {EXAMPLES} of"
    title = f"{split.name}: {which} {len(names):,} classes, {few} {each} {tasks.noun} each"
    return Part(title, found)


def _tasks(tasks: Tasks, splits: list[Split], x: Experiment) -> tuple[list[Pictured], dict[str, str]]:
    """Draw tasks of each split, or, where they are no pictures, those that a run draws at its end.

    Returns:
        The pictures; and of which tasks there are none, with the reason.
    """
    kind, pictured, without = x.dataset.kind(x.way, x.shot), list[Pictured](), dict[str, str]()
    most = ((x.way, WAY, "classes"), (x.shot, 2, "support images a class"), (x.query, 5, "query images a class"))
    few = [f"{some} of {of} {part}" for of, some, part in most if of > some]
    shown = f"; drawn are {', '.join(few)}" if few else ""
    for split in splits if tasks.figure is TaskFigure.images else ():
        try:
            tasks.check(split, x.way, x.shot, x.query)
        except UserError as error:
            without[f"tasks of {split.name}"] = f"none: {error}"
            continue
        seed = x.seed if split is Split.train else x.eval.seed  # the tasks that a run has
        episodes: Any = tasks.sample(split, seed, range(TASKS), x.way, x.shot, x.query)
        names = tasks.drawn(split, seed, range(TASKS), x.way)
        drawn = png(task_figures.images(episodes, None, x.dataset.ink, names, most=WAY))
        said = f"the first {TASKS} tasks of {split.name} (seed {seed}), {kind}{shown}"
        pictured.append(Pictured(f"Tasks of {split.name}", said, drawn))
    if tasks.figure not in (TaskFigure.images, TaskFigure.none):
        try:
            made = setup.build(x)
        except UserError as error:
            return [], {"tasks": f"none: {error}"}
        figure = tasks_drawn(made, made.first_meta())
        kind = x.dataset.kind(x.eval_way, x.eval.shot)
        told = "with a network that is not meta-trained, before and after it adapts"
        said = f"the first {TASKS} test tasks, {kind}, {told}"
        pictured += [] if figure is None else [Pictured("Tasks", said, png(figure))]
    return pictured, without


def _sheet(name: str, x: Experiment, tasks: Tasks, pictures: list[Pictured], without: dict[str, str]) -> Sheet:
    about, place = x.dataset.about, x.dataset.present(x.data_folder)
    facts = {"published": about.citation, "licence": about.licence} if about else {}
    facts |= {"read from": str(place)} if place else {}
    facts |= {"an example": " x ".join(map(str, tasks.input_shape)), **tasks.stamp, **without}
    sizes = {split: of for split in Split if (of := tasks.sizes(split))}
    splits = [
        [split.name, f"{len(of)}", f"{sum(of.values())}", f"{min(of.values())}", f"{max(of.values())}"]
        for split, of in sizes.items()
    ]
    listed = [[of, split.name, str(count)] for split, each in sizes.items() for of, count in each.items()]
    title = f"{name}: {about.title}" if about else name
    return Sheet(
        title=title,
        facts=facts,
        splits=Grid(["split", tasks.apart, tasks.noun, "least", "most"], splits),
        pictures=pictures,
        classes=Grid([tasks.apart, "split", tasks.noun], listed) if 0 < len(listed) <= LISTED else None,
    )
