"""MLflow: a run in a data base or on a tracking server."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from metarun.trackers.base import Line, Sent, Session, Tracked, Tracker

AT_ONCE = 100  # settings or tags in one call, as many as MLflow allows


@dataclass(kw_only=True, slots=True)
class MLflow(Tracker):
    """An MLflow data base or server.

    Attributes:
        uri: its address; None: the one in MLFLOW_TRACKING_URI, else ``mlflow.db`` beside the run folder.
        experiment: name of the experiment that runs are part of.
        checkpoints: whether to send the selected and the last checkpoint too.
    """

    uri: str | None
    experiment: str
    checkpoints: bool

    needs: ClassVar[tuple[str, ...]] = ("mlflow", "sqlalchemy", "alembic")
    install: ClassVar[str] = "pip install 'metarun[mlflow]'"

    @property
    def takes_checkpoints(self) -> bool:
        return self.checkpoints

    def open(self, run: Tracked, sent: Sent) -> tuple[Session, Sent]:
        import mlflow
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it says how it makes a data base

        folder = run.folder.parent.resolve()
        uri = self.uri or mlflow.environment_variables.MLFLOW_TRACKING_URI.get()
        uri = uri or f"sqlite:///{data_base(folder / 'mlflow.db')}"
        client = mlflow.MlflowClient(uri)
        found = client.get_experiment_by_name(self.experiment)
        place = str(folder / "mlflow") if uri.startswith("sqlite:") else None
        where = found.experiment_id if found else client.create_experiment(self.experiment, artifact_location=place)
        known = client.search_runs([where], f"tags.`metarun.id` = '{run.id}'", max_results=1)
        if known:
            of_run = known[0].info.run_id
            client.update_run(of_run, status="RUNNING")
            return Run(client, of_run, run, uri), _truly(client, of_run, sent)
        tags = {"metarun.id": run.id, **({"metarun.sweep": run.group} if run.group else {})}
        made = client.create_run(where, start_time=int(1000 * run.began), tags=tags, run_name=run.name)
        settings = [Param(_name(key), str(value)) for key, value in run.settings.items()]
        for at in range(0, len(settings), AT_ONCE):
            client.log_batch(made.info.run_id, params=settings[at : at + AT_ONCE])
        return Run(client, made.info.run_id, run, uri), {}


class Run(Session):
    """One run of MLflow.

    Args:
        client: an ``mlflow.MlflowClient``.
        id: MLflow's own id of the run.
        run: the run.
        uri: the data base's or the server's address.
    """

    def __init__(self, client: Any, id: str, run: Tracked, uri: str):
        self.client, self.id, self.run, self.uri, self.last = client, id, run, uri, (0, 0.0)

    def lines(self, lines: list[Line]) -> None:
        from mlflow.entities import Metric

        for line in lines:
            self.last = line.step, line.seconds
            at = int(1000 * (self.run.began + line.seconds))
            values = [Metric(name, value, at, line.step) for name, value in line.values.items()]
            self.client.log_batch(self.id, metrics=values)

    def picture(self, name: str, file: Path, step: int) -> None:
        self.client.log_artifact(self.id, str(file))

    def summary(self, numbers: dict[str, float], facts: dict[str, str]) -> None:
        for name, value in numbers.items():
            self.client.log_metric(self.id, name, value, step=self.last[0])
        for name, text in facts.items():
            self.client.set_tag(self.id, _name(name), text)

    def checkpoint(self, file: Path) -> None:
        self.client.log_artifact(self.id, str(file), "checkpoints")

    def close(self) -> str:
        self.client.set_terminated(self.id)
        return f"mlflow ui --backend-store-uri {self.uri}"


def data_base(path: Path) -> Path:
    """Make an empty data base, which is whole or not there: MLflow never opens one that a kill left half made.

    Args:
        path: its file; what is there already stays.

    Returns:
        The same path.
    """
    import mlflow

    if not path.exists():
        half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        half.unlink(missing_ok=True)
        mlflow.MlflowClient(f"sqlite:///{half}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another run was first
            os.link(half, path)
        half.unlink()
    return path


def _name(key: str) -> str:
    """Return a key with the characters that MLflow allows in names."""
    return key.replace("(", "").replace(")", "")


def _truly(client: Any, of_run: str, sent: Sent) -> Sent:
    """Return the last step of each split that the service has."""
    names = [name for name in client.get_run(of_run).data.metrics if name.startswith(("train/", "val/"))]
    has = dict(sent)
    for name in names:
        split = name.partition("/")[0]
        last = max(of.step for of in client.get_metric_history(of_run, name))
        has[split] = max(has.get(split, 0), last)
    return has
