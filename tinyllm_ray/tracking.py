"""MLflow as a view of the trials' files: a parent run per output folder, a child run per trial and seed.

In: trial folders (metrics/part-*.jsonl, result.json, predictions/, ...). Out: MLflow runs. Training never waits for
the server: one thread on the driver uploads what is new, tries again while the server is away, and every upload is
idempotent (runs are found by the tag `tinyllm.key`), so a killed or repeated run makes no second record.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")

import mlflow
import requests
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, flatten, public
from tinyllm_ray.schema import Experiment

AWAY = (MlflowException, requests.RequestException, OSError)
KEY_TAG = "tinyllm.key"
BATCH = 900  # metrics per request; the server takes 1,000 at most


@dataclass
class TrialUpload:
    """What of one trial is in MLflow already."""

    key: str
    folder: str
    name: str
    config: Experiment
    seed: int
    tags: dict[str, str]
    run_id: str | None = None
    parts: set[str] = field(default_factory=set)
    done: bool = False


class Tracker:
    """The records of one output folder; use as a context manager so that the rest is uploaded at the end."""

    def __init__(self, experiment: Experiment, *, output_dir: str, lineage: dict[str, str]):
        self.settings = experiment.tracking
        self.uri = tracking_uri(experiment, output_dir=output_dir)
        _check_reachable(self.uri, self.settings.connect_timeout_s)
        os.environ.pop("MLFLOW_RUN_ID", None)
        mlflow.set_tracking_uri(self.uri)
        self.client = mlflow.MlflowClient(self.uri)
        self.experiment_id = self._experiment(self.settings.experiment or experiment.name, output_dir)
        self.lineage = lineage | {"git.commit": _git_commit(), "output.dir": output_dir}
        self.parent = self._find_or_create(f"parent:{output_dir}", experiment.name, self.lineage)
        self.parent_id = self.parent.info.run_id
        if not self.parent.data.params:
            self._log_params(self.parent_id, flatten(public(experiment)))
        self.client.log_dict(self.parent_id, public(experiment), "config.yaml")
        self.uploads: dict[str, TrialUpload] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-upload", daemon=True)
        self._monitor: SystemMetricsMonitor | None = None

    def __enter__(self) -> "Tracker":
        self.client.set_terminated(self.parent_id, "RUNNING")
        if self.settings.system_metrics:
            self._monitor = SystemMetricsMonitor(self.parent_id, resume_logging=True)
            self._monitor.start()
        self._thread.start()
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        if self._monitor:
            self._monitor.finish()
        deadline = time.monotonic() + self.settings.flush_timeout_s
        status = "FAILED" if error_type else "FINISHED"
        while not (self._sync() and self._set_status(status)):
            if time.monotonic() > deadline:
                print(f"MLflow at {self.uri} is away; what is missing is uploaded by the next run with this output.dir")
                return
            time.sleep(1)

    def watch(self, key: str, *, folder: str, name: str, config: Experiment, seed: int, tags: dict[str, str]) -> None:
        """Upload this trial's files from now on, as a child of the parent run."""
        with self._lock:
            self.uploads.setdefault(key, TrialUpload(key, folder, name, config, seed, tags))

    def run_id(self, key: str) -> str | None:
        return self.uploads[key].run_id if key in self.uploads else None

    def summarise(self, metrics: dict[str, float], *, tags: dict[str, str], artifacts: list[Path]) -> None:
        """Figures, tags and files of the whole pipeline, on the parent run."""
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.parent_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        for path in artifacts:
            self.client.log_artifact(self.parent_id, str(path))

    def log_questions(self, files: dict[str, tuple[str, str, int]], *, name: str) -> None:
        """Dataset inputs of the parent run: split -> (path, digest, rows)."""
        inputs = [
            DatasetInput(
                Dataset(
                    f"{name}-{split}",
                    found_digest,
                    "local",
                    json.dumps({"uri": path}),
                    profile=json.dumps({"rows": rows}),
                )
            )
            for split, (path, found_digest, rows) in files.items()
        ]
        self.client.log_inputs(self.parent_id, inputs)

    def _experiment(self, name: str, output_dir: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        local = self.uri.startswith("sqlite:")
        artifacts = storage.join(output_dir, "mlflow", "artifacts") if local else None
        return self.client.create_experiment(name, artifacts, {"mlflow.experimentKind": "custom_model_development"})

    def _find_or_create(self, key: str, name: str, tags: dict[str, str]) -> Run:
        query = f"tags.`{KEY_TAG}` = '{key}'"
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        if found:
            return found[0]
        return self.client.create_run(self.experiment_id, tags={KEY_TAG: key, **tags}, run_name=name)

    def _log_params(self, run_id: str, values: dict[str, Any]) -> None:
        params = [Param(key[:250], str(value)[:6000]) for key, value in values.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])

    def _set_status(self, status: str) -> bool:
        try:
            self.client.set_terminated(self.parent_id, status)
        except AWAY:
            return False
        return True

    def _run(self) -> None:
        while not self._closing.wait(self.settings.sync_every_s):
            self._sync()

    def _sync(self) -> bool:
        """Upload what is new; False where the server was away for some of it."""
        with self._lock:
            uploads = [upload for upload in self.uploads.values() if not upload.done]
        complete = True
        for upload in uploads:
            try:
                self._advance(upload)
            except AWAY:
                complete = False
        return complete

    def _advance(self, upload: TrialUpload) -> None:
        if upload.run_id is None:
            upload.run_id = self._start_child(upload)
            if upload.done:
                return
        ended = [
            name
            for name in ("result.json", "failure.json", "stopped.json")
            if storage.exists(storage.join(upload.folder, name))
        ]
        for uri in storage.list_files(storage.join(upload.folder, "metrics"), ".jsonl"):
            if uri not in upload.parts:
                self._log_part(upload.run_id, storage.read_bytes(uri))
                upload.parts.add(uri)
        if ended:
            self._finish_child(upload, ended[0])
            upload.done = True

    def _start_child(self, upload: TrialUpload) -> str:
        tags = {"mlflow.parentRunId": self.parent_id, "seed": str(upload.seed)} | self.lineage | upload.tags
        run = self._find_or_create(f"{self.parent_id}:{upload.key}", upload.name, tags)
        upload.done = run.info.status == "FINISHED"
        if not run.data.params:
            self._log_params(run.info.run_id, flatten(public(upload.config)) | {"seed": upload.seed})
        return run.info.run_id

    def _log_part(self, run_id: str, lines: bytes) -> None:
        metrics = []
        for line in lines.splitlines():
            row = json.loads(line)
            step, written = row.pop("step"), row.pop("time")
            metrics += [Metric(name, float(value), int(written), int(step)) for name, value in row.items()]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _finish_child(self, upload: TrialUpload, ended: str) -> None:
        outcome = storage.read_json(storage.join(upload.folder, ended))
        run_id = upload.run_id
        now = int(time.time() * 1000)
        numbers = {
            k: v for k, v in outcome.items() if isinstance(v, int | float) and not isinstance(v, bool) and k != "seed"
        }
        final = [
            Metric(name if "/" in name else f"result/{name}", float(v), now, int(outcome["steps"]))
            for name, v in numbers.items()
        ]
        self.client.log_batch(run_id, metrics=final, tags=[RunTag("ended", ended.removesuffix(".json"))])
        with tempfile.TemporaryDirectory() as folder:
            for uri in self._artifacts(upload.folder):
                path = Path(folder, uri.removeprefix(upload.folder).lstrip("/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(storage.read_bytes(uri))
            self.client.log_artifacts(run_id, folder)
        self.client.set_terminated(run_id, "FAILED" if ended == "failure.json" else "FINISHED")

    def _artifacts(self, folder: str) -> list[str]:
        files = [
            storage.join(folder, name) for name in ("config.yaml", "result.json", "failure.json", "model/README.md")
        ]
        return [uri for uri in files if storage.exists(uri)] + storage.list_files(storage.join(folder, "predictions"))


def tracking_uri(experiment: Experiment, *, output_dir: str) -> str:
    """The configured server, or SQLite under the output folder, which must then be on this machine."""
    if experiment.tracking.uri:
        return experiment.tracking.uri
    if not storage.is_local(output_dir):
        raise UserError(f"output.dir is {output_dir}, where SQLite cannot write; set tracking.uri to an MLflow server")
    folder = storage.local_path(output_dir) / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/mlflow.db"


def _check_reachable(uri: str, timeout_s: float) -> None:
    if not uri.startswith("http"):
        return
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=min(3.0, timeout_s)).close()
            break
        except urllib.error.HTTPError:
            break  # it answers
        except OSError as error:
            if time.monotonic() + 1 > deadline:
                raise UserError(
                    f"tracking.uri {uri} does not answer within {timeout_s:g} s ({error}); start it or change the key"
                ) from None
        time.sleep(0.5)
    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise UserError(
            f"tracking.uri {uri} refuses: {error}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD if it asks for them"
        ) from None


def _git_commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return found.stdout.strip() or "unknown"
