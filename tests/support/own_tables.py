"""A table such as people have: machines with sensors, each of its own gain and offset, and a state."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

HEADER = ["machine", "speed [rpm]", "load", "temperature", "power", "state", "part"]
QUICK = ["steps=2", "meta_batch=2", "eval.every=2", "eval.val_tasks=2", "eval.tasks=2", "device.compile=false"]
QUICK += ["shot=3", "query=3", "algo.eval_inner_steps=2"]
NUMBERS = ["dataset=table", "dataset.path=sensors.csv", "dataset.target=[temperature]", "dataset.predict=numbers"]
NUMBERS += ["dataset.task=machine", 'dataset.features=["speed [rpm]",load]']
STATES = ["dataset=table", "dataset.path=sensors.csv", "dataset.target=[state]", "dataset.task=machine", "way=2"]
STATES += [NUMBERS[-1], "dataset.split=part"]


def sensors(machines: int = 10, each: int = 16) -> list[list[str]]:
    """Header and rows, all texts: speed and load are inputs, half the rows of a machine are of either state."""
    generator, rows = np.random.default_rng(0), [HEADER]
    for machine in range(machines):
        gain, offset = generator.normal(1, 0.4), generator.normal(0, 8)
        part = "train" if machine < machines - 4 else "val" if machine < machines - 2 else "test"
        for i in range(each):
            speed, load = generator.uniform(500, 3000), generator.uniform(0, 100)
            temperature = 20 + offset + gain * load / 4 + speed / 200
            numbers = [f"{x:.2f}" for x in (speed, load, temperature, load * gain * speed / 1e4)]
            rows.append([f"M{machine:02d}", *numbers, "run" if i % 2 else "idle", part])
    return rows


def write(path: Path, rows: list[list[str]] | None = None, delimiter: str = ",") -> Path:
    """Write rows, ``sensors()`` unless others are given, as a CSV file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(sensors() if rows is None else rows)
    return path


def changed(row: int, column: str, text: str) -> list[list[str]]:
    """Return the rows of ``sensors`` with another text in one cell; row 1 is the first below the header."""
    rows = sensors()
    rows[row][HEADER.index(column)] = text
    return rows


def arrays(path: Path, shape: tuple[int, ...] = (2, 9), classes: int = 6, each: int = 12) -> Path:
    """Write an NPZ file of series whose classes differ by a frequency, with two patients a class; returns its path."""
    generator = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), each)
    time = np.arange(int(np.prod(shape))).reshape(shape)
    phase = generator.uniform(0, 6, (len(y), *[1] * len(shape)))
    x = np.sin(phase + time * (0.3 + 0.2 * y).reshape(-1, *[1] * len(shape)))
    x += generator.normal(0, 0.1, x.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    level = np.stack([x.mean(tuple(range(1, x.ndim))), generator.normal(size=len(y))], 1)
    np.savez(path, x=(100 + 5 * x).astype(np.float32), y=y, patient=np.arange(len(y)) // 6, level=level)
    return path
