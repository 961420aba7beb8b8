from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metarun import config
from metarun.runs.follow import followed
from metarun.runs.record import Record
from tests.support.runs import finish, write

for module in ("mlflow", "sqlalchemy", "alembic"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install 'metarun[mlflow]'")


@pytest.fixture
def mlflow() -> dict[str, Any]:
    return config.compose(["tracker=mlflow"])[0].tracker


def only_run(run_dir: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("metarun").experiment_id])
    return client, run


def test_values_are_read_back_and_there_once(run_dir: Path, record: Record, mlflow: dict[str, Any]) -> None:
    """Killed between writing and marking: the memory is of an earlier moment than the data base."""
    mlflow["mlflow"].group = "sweep"
    with followed(mlflow, run_dir):
        write(run_dir, range(1, 3))
    before = (run_dir / "tracked.json").read_bytes()
    with followed(mlflow, run_dir):
        write(run_dir, range(3, 6), resume=2)
    (run_dir / "tracked.json").write_bytes(before)
    with followed(mlflow, run_dir):
        write(run_dir, range(3, 7), resume=2)
        finish(run_dir, record)
    client, run = only_run(run_dir)
    points = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    curve = {name: sorted((of.step, round(of.value, 6)) for of in found) for name, found in points.items()}
    assert curve["train/loss"] == [(step, round(1 / step, 6)) for step in range(1, 7)]
    assert curve["val/accuracy"] == [(2, 0.02), (4, 0.04), (6, 0.06)] and curve["val/ci95"][0] == (2, 0.01)
    assert curve["test/accuracy/transductive"] == [(6, 0.75)]
    assert run.data.params["algo.inner_steps"] == str(record.identity()["algo.inner_steps"])
    assert len(run.data.params) == len(record.identity()) and run.info.status == "FINISHED"
    assert run.info.run_name == "run" and run.data.tags["metarun.sweep"] == "sweep"
    assert run.data.tags["test/accuracy/transductive_in_words"] == "75.00 ± 1.00 %, 95 % interval over 600 tasks"
    assert [of.path for of in client.list_artifacts(run.info.run_id)] == ["examples.png"]
    assert not [tag for tag in run.data.tags if tag.startswith("mlflow.source")]


def test_a_data_base_that_a_kill_left_half_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow as of_mlflow

    from metarun.trackers.mlflow import data_base

    def killed(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half made")
        raise KeyboardInterrupt

    file = tmp_path / "mlflow.db"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(of_mlflow, "MlflowClient", killed)
        data_base(file)
    assert not file.exists()
    assert data_base(file) == file
    assert len(of_mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()) == 1
    assert [path.name for path in tmp_path.glob("*mlflow*")] == ["mlflow.db"]
