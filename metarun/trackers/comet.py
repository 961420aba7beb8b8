"""Comet: a ZIP file in the run folder that ``comet upload`` sends, or, with ``online``, straight to its service.

A file is written when the run ends or is stopped, from what the run folder holds: Comet's own offline mode writes
nothing before, and a run that is killed would lose all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from metarun.trackers.base import Line, Sent, Service, Session, Tracked, environment

FOLDER, UNFINISHED = "comet", ".unfinished"  # in the run folder
# before the import: no hooks in torch, no text, and no reports of errors to others (which half of its starts make)
SILENT = {
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_LOGGING_CONSOLE": "error",
    "COMET_ERROR_TRACKING_ENABLE": "false",
}
OFF = (  # what Comet would send of the person: code, git, packages, command line, output, machine
    *("log_code", "log_graph", "log_git_metadata", "log_git_patch", "parse_args", "auto_output_logging"),
    *("log_env_details", "log_env_gpu", "log_env_host", "log_env_cpu", "log_env_network", "log_env_disk"),
    *("auto_param_logging", "auto_metric_logging", "auto_log_co2"),
)


@dataclass(kw_only=True, slots=True)
class Comet(Service):
    """Comet's service, on its site or one's own.

    Attributes:
        project: the project's name there.
        workspace: the workspace; None: the account's own.
    """

    project: str
    workspace: str | None

    needs: ClassVar[tuple[str, ...]] = ("comet_ml",)
    install: ClassVar[str] = "pip install 'metarun[comet]'"
    key: ClassVar[str] = "COMET_API_KEY or by comet login"

    def has_key(self) -> bool:
        config = _comet().config
        return bool(config.get_api_key(None, config.get_config()))

    def open(self, run: Tracked, sent: Sent) -> tuple[Session, Sent]:
        comet_ml = _comet()
        unfinished = run.folder / FOLDER / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        if not self.online:
            unfinished.mkdir(parents=True)
        settings = comet_ml.ExperimentConfig(
            **{name: False for name in OFF},
            display_summary_level=0,
            offline_directory=str(unfinished),
            name=run.name,
            tags=[run.group] if run.group else [],
        )
        experiment = comet_ml.start(
            workspace=self.workspace,
            project_name=self.project,
            experiment_key=run.id,
            mode="get_or_create",
            online=self.online,
            experiment_config=settings,
        )
        if not sent:
            experiment.log_parameters(run.settings, nested_support=False)
        if not sent and run.group:
            experiment.log_other("sweep", run.group)
        return Experiment(experiment, run, self.online), sent


class Experiment(Session):
    """One experiment of Comet.

    Args:
        experiment: what ``comet_ml.start`` returned.
        run: the run.
        online: whether it goes to the service.
    """

    def __init__(self, experiment: Any, run: Tracked, online: bool):
        self.experiment, self.run, self.online = experiment, run, online

    def lines(self, lines: list[Line]) -> None:
        for line in lines:
            self.experiment.log_metrics(line.values, step=line.step)
        if self.online and not self.experiment.flush():
            raise ConnectionError("Comet did not take all that was sent")

    def picture(self, name: str, file: Path, step: int) -> None:
        self.experiment.log_image(str(file), name=name, step=step)

    def summary(self, numbers: dict[str, float], facts: dict[str, str]) -> None:
        self.experiment.log_metrics(numbers)
        self.experiment.log_others(facts)

    def checkpoint(self, file: Path) -> None:
        self.experiment.log_model(file.stem, str(file))

    def close(self) -> str:
        self.experiment.end()
        if self.online:
            return str(self.experiment.url)
        folder = self.run.folder / FOLDER
        written = next((folder / UNFINISHED).glob("*.zip"), None)
        if written is None:
            raise OSError("Comet wrote no file")
        kept = written.rename(folder / f"{self.run.id}_{1 + len(list(folder.glob('*.zip')))}.zip")
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        return f"comet upload {kept}"

    def abandon(self) -> None:
        self.experiment.end()


def _comet() -> Any:
    """Import Comet."""
    with environment(SILENT):
        import comet_ml
        import comet_ml.config
    return comet_ml
