"""MLflow's records read back as plain values, for the report and for `reproduce`.

In: a tracking URI and the name of an MLflow experiment, or a run id. Out: Record, metric curves, artifacts' bytes.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tinyllm_ray.config import UserError, digest
from tinyllm_ray.tracking.server import connect
from tinyllm_ray.tracking.shown import NOTE
from tinyllm_ray.tracking.uploads import KEY_TAG

PAGE = 200  # runs per request


@dataclass(frozen=True)
class Record:
    """One MLflow run."""

    run_id: str
    name: str
    status: str
    start_ms: int
    end_ms: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]  # the latest of each


@dataclass(frozen=True)
class DatasetRecord:
    name: str
    digest: str
    uri: str
    rows: int


class Records:
    """A store that has been opened for reading."""

    def __init__(self, uri: str, *, timeout_s: float = 15):
        path = uri.removeprefix("sqlite:///")
        if path != uri and not Path(path).is_file():
            raise UserError(
                f"{uri} holds no MLflow records yet; run the experiment first, or change tracking.uri (--uri)"
            )
        self.uri = uri
        self.client = connect(uri, timeout_s=timeout_s)

    def parent(self, experiment: str, *, output_dir: str) -> Record:
        """The parent run of an output folder, else the experiment's newest (the folder may have moved)."""
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            raise UserError(f"{self.uri} has no experiment {experiment!r}; run it first, or change tracking.experiment")
        own = f"tags.`{KEY_TAG}` = 'parent:{digest(output_dir)}'"
        for query in (own, f"tags.`{KEY_TAG}` LIKE 'parent:%'"):
            runs = self.client.search_runs([found.experiment_id], query, max_results=1)
            if runs:
                return _record(runs[0])
        raise UserError(f"experiment {experiment!r} at {self.uri} has no run of this project yet")

    def children(self, parent: Record) -> list[Record]:
        """In order of their start."""
        experiment_id = self.client.get_run(parent.run_id).info.experiment_id
        query, token, runs = f"tags.`mlflow.parentRunId` = '{parent.run_id}'", None, []
        while True:
            page = self.client.search_runs([experiment_id], query, max_results=PAGE, page_token=token)
            runs += page
            token = page.token
            if not token:
                return sorted(map(_record, runs), key=lambda record: (record.start_ms, record.name))

    def run(self, run_id: str) -> Record:
        try:
            return _record(self.client.get_run(run_id))
        except MlflowException as error:
            raise UserError(f"{self.uri} has no run {run_id!r} ({error.message}); check the id and --uri") from None

    def curve(self, run_id: str, name: str) -> list[tuple[int, float]]:
        points = {metric.step: metric.value for metric in self.client.get_metric_history(run_id, name)}
        return sorted(points.items())

    def datasets(self, run_id: str) -> list[DatasetRecord]:
        inputs = self.client.get_run(run_id).inputs.dataset_inputs
        return [
            DatasetRecord(
                item.dataset.name,
                item.dataset.digest,
                json.loads(item.dataset.source)["uri"],
                json.loads(item.dataset.profile)["rows"],
            )
            for item in inputs
        ]

    def files(self, run_id: str, folder: str) -> list[str]:
        return [item.path for item in self.client.list_artifacts(run_id, folder) if not item.is_dir]

    def artifact(self, run_id: str, path: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, path, folder)).read_bytes()

    def set_note(self, run_id: str, text: str) -> None:
        """In Markdown; the run's page opens with it."""
        self.client.set_tag(run_id, NOTE, text)

    def add_artifacts(self, run_id: str, local: str, folder: str) -> None:
        self.client.log_artifacts(run_id, local, folder)


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else the newest store below the current folder's outputs, else what mlflow falls back to."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return os.environ["MLFLOW_TRACKING_URI"]
    stores = sorted(Path().glob("outputs/*/mlflow/mlflow.db"), key=lambda path: path.stat().st_mtime)
    return f"sqlite:///{stores[-1].resolve()}" if stores else mlflow.get_tracking_uri()


def stores_here() -> list[str]:
    """The stores below the current folder's outputs."""
    return [f"sqlite:///{path.resolve()}" for path in sorted(Path().glob("outputs/*/mlflow/mlflow.db"))]


def _record(run: Run) -> Record:
    info: Any = run.info
    return Record(
        info.run_id,
        info.run_name,
        info.status,
        info.start_time,
        info.end_time,
        dict(run.data.params),
        dict(run.data.tags),
        dict(run.data.metrics),
    )
