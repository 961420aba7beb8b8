"""TensorBoard: event files in the run folder, for ``tensorboard --logdir outputs``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarun.trackers.base import Line, Sent, Session, Tracked, Tracker

FOLDER = "tensorboard"  # in the run folder


@dataclass(kw_only=True, slots=True)
class TensorBoard(Tracker):
    """Event files that TensorBoard reads; nothing leaves the machine."""

    needs: ClassVar[tuple[str, ...]] = ("tensorboard",)
    install: ClassVar[str] = "pip install 'metarun[tensorboard]'"

    def open(self, run: Tracked, sent: Sent) -> tuple[Session, Sent]:
        from torch.utils.tensorboard import SummaryWriter

        # Files may hold lines that were not marked as sent, and TensorBoard drops what is at or behind purge_step: so
        # all lines behind the last step that is complete in every split are written again.
        first = 1 + min(sent.values(), default=-1)
        writer = SummaryWriter(str(run.folder / FOLDER), purge_step=first)
        if first == 0:
            group = {"group": run.group} if run.group else {}
            rows = [f"| {key} | {value} |" for key, value in {**run.settings, **group}.items()]
            writer.add_text("settings", "\n".join(["| | |", "|---|---|", *rows]), 0, walltime=run.began)
        return Events(writer, run), {split: first - 1 for split in sent}


class Events(Session):
    """Event files of one run.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``.
        run: the run.
    """

    def __init__(self, writer: Any, run: Tracked):
        self.writer, self.run, self.last = writer, run, 0

    def lines(self, lines: list[Line]) -> None:
        for line in lines:
            self.last = line.step
            for name, value in line.values.items():
                self.writer.add_scalar(name, value, line.step, walltime=self.run.began + line.seconds)
        self.writer.flush()

    def picture(self, name: str, file: Path, step: int) -> None:
        from PIL import Image

        with Image.open(file) as image:
            self.writer.add_image(name.removesuffix(".png"), np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()

    def summary(self, numbers: dict[str, float], facts: dict[str, str]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, self.last)
        rows = [f"| {key} | {value} |" for key, value in facts.items()]
        self.writer.add_text("result", "\n".join(["| | |", "|---|---|", *rows]), self.last)

    def close(self) -> str:
        self.writer.close()
        return f"tensorboard --logdir {self.run.folder.parent}"
