"""Weights & Biases: a folder in the run folder that ``wandb sync`` sends, or, with ``online``, straight to its service.

A folder is written when the run ends or is stopped, from what the run folder holds: W&B's own offline mode keeps the
last seconds in memory, and a run that is killed would lose them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from metarun.trackers.base import Line, Sent, Service, Session, Tracked


@dataclass(kw_only=True, slots=True)
class WandB(Service):
    """W&B's service, on its site or one's own.

    Attributes:
        project: the project's name there.
        entity: the account or team; None: the account's own.
    """

    project: str
    entity: str | None

    needs: ClassVar[tuple[str, ...]] = ("wandb",)
    install: ClassVar[str] = "pip install 'metarun[wandb]'"
    key: ClassVar[str] = "WANDB_API_KEY or by wandb login"

    def has_key(self) -> bool:
        import wandb

        return bool(wandb.login(prompt=False, verify=False))

    def open(self, run: Tracked, sent: Sent) -> tuple[Session, Sent]:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            save_code=False,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            host="",
            program="metarun",
            init_timeout=60,
            finish_timeout=max(1, int(self.patience)),
            reinit="finish_previous",
        )
        made = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(run.folder),
            id=run.id,
            name=run.name,
            group=run.group,
            config=run.settings,
            mode="online" if self.online else "offline",
            resume="allow",
            settings=settings,
        )
        if self.online and sent:  # what was on its way when the run was killed may not have arrived
            sent = {split: min(step, made.step - 1) for split, step in sent.items()}
        return Run(made, run, self.online), sent


class Run(Session):
    """One run of W&B.

    Args:
        made: what ``wandb.init`` returned.
        run: the run.
        online: whether it goes to the service.
    """

    def __init__(self, made: Any, run: Tracked, online: bool):
        self.made, self.run, self.online = made, run, online

    def lines(self, lines: list[Line]) -> None:
        for line in lines:
            self.made.log(line.values, step=line.step)

    def picture(self, name: str, file: Path, step: int) -> None:
        import wandb

        self.made.log({name.removesuffix(".png"): wandb.Image(str(file))}, step=step)

    def summary(self, numbers: dict[str, float], facts: dict[str, str]) -> None:
        self.made.summary.update({**facts, **numbers})

    def checkpoint(self, file: Path) -> None:
        self.made.save(str(file), base_path=str(self.run.folder), policy="now")

    def close(self) -> str:
        folder = Path(self.made.dir).parent
        self.made.finish()
        return str(self.made.url) if self.online else f"wandb sync {folder}"

    def abandon(self) -> None:
        self.made.finish()
