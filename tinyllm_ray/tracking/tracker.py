"""The records of one output folder in MLflow, written while trainings run.

In: trial folders to watch. Out: a parent run and its children. Training never waits for the server: one thread on the
driver uploads what is new and tries again while the server is away; a killed or repeated run makes no second record.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest, flatten, public
from tinyllm_ray.redact import redact, redact_text
from tinyllm_ray.schema import Experiment
from tinyllm_ray.tracking.address import tracking_uri
from tinyllm_ray.tracking.lineage import environment
from tinyllm_ray.tracking.models import Registered, register_model
from tinyllm_ray.tracking.server import AWAY, connect, is_lasting
from tinyllm_ray.tracking.shown import EXPERIMENT_TAGS, comparison_url, comparison_view, constants
from tinyllm_ray.tracking.uploads import METRICS_PER_CALL, TrialUpload, advance, clean_tags, find_or_create

STOP_PATIENCE_S = 10.0  # how long a command that was stopped waits for a server that is away


class Tracker:
    """Use as a context manager: the rest is uploaded at its end."""

    def __init__(self, experiment: Experiment, *, output_dir: str, lineage: dict[str, str]):
        self.settings = experiment.tracking
        self._cluster = experiment.pools.address or os.environ.get("RAY_ADDRESS")
        self.uri = tracking_uri(experiment, output_dir=output_dir)
        self.client = connect(self.uri, timeout_s=self.settings.connect_timeout_s)
        os.environ.pop("MLFLOW_RUN_ID", None)
        self.experiment_id = self._experiment(self.settings.experiment or experiment.name, output_dir)
        self.lineage = clean_tags(environment() | lineage | {"output.dir": output_dir})
        self.parent_id = self._parent(experiment, output_dir)
        self.uploads: dict[str, TrialUpload] = {}
        self._live: list[Metric] = []
        self._datasets: list[DatasetInput] = []
        self._questions: dict[str, str] = {}  # split -> question file
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-upload", daemon=True)
        self._monitor: SystemMetricsMonitor | None = None

    def __enter__(self) -> "Tracker":
        self.patiently(lambda: self.client.update_run(self.parent_id, status="RUNNING"))
        if self._watches_machines():
            self._monitor = SystemMetricsMonitor(self.parent_id, resume_logging=True)
            self._monitor.start()
        self._thread.start()
        return self

    def _watches_machines(self) -> bool:
        """By default on clusters, where nobody sees the machines themselves."""
        wanted = self.settings.system_metrics
        return bool(self._cluster) if wanted is None else wanted

    def __exit__(self, error_type: type | None, *_: object) -> None:
        self._closing.set()
        stopped = error_type is not None and issubclass(error_type, SystemExit | KeyboardInterrupt)
        patience_s = min(STOP_PATIENCE_S, self.settings.flush_timeout_s) if stopped else self.settings.flush_timeout_s
        deadline = time.monotonic() + patience_s
        if stopped:  # first, since a job that is stopped is killed after a few seconds
            self._mark_killed(deadline=deadline)
        self._thread.join()
        if self._monitor:
            self._monitor.finish()
        self.flush(deadline=deadline)
        if stopped:
            self._mark_killed(deadline=deadline)  # those that the last flush made
            return
        status = "FAILED" if error_type else "FINISHED"
        self.patiently(lambda: self.client.set_terminated(self.parent_id, status), deadline=deadline)

    def _mark_killed(self, *, deadline: float) -> None:
        """The parent and every trial that has not ended. The run of a resumed trial continues from there."""
        unfinished = [upload.run_id for upload in list(self.uploads.values()) if upload.run_id and not upload.done]
        for run_id in (self.parent_id, *unfinished):
            self.patiently(partial(self.client.set_terminated, run_id, "KILLED"), deadline=deadline)

    def flush(self, *, deadline: float | None = None) -> None:
        """Upload all that there is, or as much as a server that is away takes within `flush_timeout_s`."""
        deadline = deadline or time.monotonic() + self.settings.flush_timeout_s
        while not self._sync() and time.monotonic() < deadline:
            time.sleep(1)

    def watch(self, key: str, *, folder: str, name: str, config: Experiment, seed: int, tags: dict[str, str]) -> None:
        """Upload this trial's files from now on, as a child of the parent run."""
        with self._lock:
            self.uploads.setdefault(key, TrialUpload(key, folder, name, config, seed, tags, self._questions))

    def run_id(self, key: str) -> str | None:
        return self.uploads[key].run_id if key in self.uploads else None

    def finish(self, key: str) -> str | None:
        """Upload the rest of one ended trial now; its run id, or None while the server is away."""
        with self._lock:
            upload = self.uploads[key]
            self.patiently(lambda: self._advance(upload))
        return upload.run_id

    def register(self, key: str, folder: str, *, name: str, example: dict[str, Any], about: str) -> Registered | None:
        """The model of an ended trial, logged under its run and registered; None while the server is away."""
        run_id = self.finish(key)
        made: list[Registered] = []
        if run_id:
            register = partial(register_model, self.client, folder, run_id=run_id, key=key, name=name)
            self.patiently(lambda: made.append(register(example=example, about=about)))
        return made[0] if made else None

    def summarize(self, metrics: dict[str, float], *, tags: dict[str, str], artifacts: list[Path]) -> None:
        """Figures, tags and files of the whole pipeline, on the parent run."""
        marks = [RunTag(key, value) for key, value in clean_tags(tags).items()]
        self.patiently(lambda: self._log_figures(metrics, marks))
        for path in artifacts:
            self.patiently(partial(self.client.log_artifact, self.parent_id, str(path)))

    def log_live(self, metrics: dict[str, float], *, step: int) -> None:
        """Figures of the moment, on the parent run with the next upload; `step`: seconds since the work began."""
        now = int(time.time() * 1000)
        self._live += [Metric(name, value, now, step) for name, value in metrics.items()]

    def retag(self, lineage: dict[str, str]) -> None:
        """Tags of all records, those that were made before included: what the stores hold once they are whole."""
        marks = clean_tags(lineage)
        self.lineage |= marks
        with self._lock:
            runs = [self.parent_id, *(upload.run_id for upload in self.uploads.values() if upload.run_id)]
        for run_id in runs:
            tags = [RunTag(key, value) for key, value in marks.items()]
            self.patiently(partial(self.client.log_batch, run_id, tags=tags))

    def log_generation(self, reports: dict[str, dict]) -> None:
        """What the teachers did in this run; one file for each run that made something, so that none is lost."""
        if any(report["generated"] for report in reports.values()):
            name = f"generation/{digest(reports)}.json"
            self.patiently(lambda: self.client.log_dict(self.parent_id, redact(reports), name))

    def log_questions(self, files: dict[str, tuple[str, str, int]], *, name: str) -> None:
        """Dataset inputs of the parent run and of those to come: split -> (path, digest, rows)."""
        self._questions = {split: path for split, (path, _, _) in files.items()}
        self._datasets = [
            DatasetInput(
                Dataset(
                    f"{name}-{split}",
                    found_digest,
                    "local",
                    json.dumps({"uri": redact_text(path)}),
                    profile=json.dumps({"rows": rows}),
                ),
                [InputTag("mlflow.data.context", "training" if split == "train" else split)],
            )
            for split, (path, found_digest, rows) in files.items()
        ]
        self.patiently(lambda: self.client.log_inputs(self.parent_id, self._datasets))

    def patiently(self, action: Callable[[], object], *, deadline: float | None = None) -> bool:
        """Try until the server is back, `flush_timeout_s` at most; says what is missing rather than stopping a run."""
        deadline = deadline or time.monotonic() + self.settings.flush_timeout_s
        while True:
            try:
                action()
                return True
            except AWAY as error:
                if is_lasting(error) or time.monotonic() > deadline:
                    self._complain(error)
                    return False
            time.sleep(1)

    def _log_figures(self, metrics: dict[str, float], marks: list[RunTag]) -> None:
        known, now = self.client.get_run(self.parent_id).data.metrics, int(time.time() * 1000)
        new = [Metric(n, v, now, 0) for n, v in metrics.items() if n not in known or known[n] != v]
        self.client.log_batch(self.parent_id, metrics=new, tags=marks)

    def _complain(self, error: Exception) -> None:
        print(
            f"MLflow at {self.uri} did not take everything ({redact_text(str(error))[:300]}); what is missing is "
            "uploaded by the next run with this output.dir",
            file=sys.stderr,
        )

    def _experiment(self, name: str, output_dir: str) -> str:
        """The id of the experiment, made where there is none."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            local = self.uri.startswith("sqlite:")
            artifacts = storage.join(output_dir, "mlflow", "artifacts") if local else None
            try:
                return self.client.create_experiment(name, artifacts, EXPERIMENT_TAGS)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another process was first
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise UserError(
                f"the MLflow experiment {name!r} at {self.uri} was deleted; restore it there, or set "
                "tracking.experiment to another name"
            )
        return found.experiment_id

    def _parent(self, experiment: Experiment, output_dir: str) -> str:
        key = f"parent:{digest(output_dir)}"
        run: Run = find_or_create(
            self.client, key, experiment_id=self.experiment_id, name=experiment.name, tags=self.lineage
        )
        run_id, config = run.info.run_id, public(experiment)
        changed = {f"changed.{name}": str(value) for name, value in self._changes(run, config).items()}
        view, text = comparison_view(run_id, params=self._compared(experiment))
        self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{view}", text)
        self.comparison = comparison_url(self.uri, experiment_id=self.experiment_id, key=view)
        marks = {"comparison": self.comparison} | constants(experiment) | changed
        tags = self.lineage | clean_tags(marks)
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self.client.log_dict(run_id, config, "config.yaml")
        return run_id

    @staticmethod
    def _compared(experiment: Experiment) -> list[str]:
        """Axes of the comparison: what is searched, students by their size; without a search, variants and weights."""
        space = [name for name in experiment.search.space if name != "student.model"]
        sizes = ["student.parameters"] if len(space) < len(experiment.search.space) else []
        weights = [f"loss.rationale_weights.{teacher.name}" for teacher in experiment.teachers]
        return [*space, *sizes] or ["variant", "loss.label_weight", *weights]

    def _changes(self, run: Run, config: dict[str, Any]) -> dict[str, Any]:
        """Keys that the parent's last config.yaml has with another value, as the experiment was changed since."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self.client.download_artifacts(run.info.run_id, "config.yaml", folder)
            except (MlflowException, OSError):
                return {}  # the first run
            before = flatten(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        return {name: value for name, value in flatten(config).items() if name not in before or before[name] != value}

    def _run(self) -> None:
        while not self._closing.wait(self.settings.sync_every_s):
            self._sync()

    def _sync(self) -> bool:
        """Upload what is new; False where the server was away for some of it."""
        with self._lock:
            return all(
                [self._upload_live(), *(self._try(upload) for upload in self.uploads.values() if not upload.done)]
            )

    def _upload_live(self) -> bool:
        waiting = self._live[:METRICS_PER_CALL]
        if not waiting:
            return True
        try:
            self.client.log_batch(self.parent_id, metrics=waiting)
        except AWAY as error:
            if not is_lasting(error):
                return False
            self._complain(error)
        del self._live[: len(waiting)]
        return not self._live

    def _try(self, upload: TrialUpload) -> bool:
        try:
            self._advance(upload)
        except AWAY as error:
            if is_lasting(error):
                self._complain(error)
                upload.done = True
                return True
            return False
        return True

    def _advance(self, upload: TrialUpload) -> None:
        tags = self.lineage | {"mlflow.parentRunId": self.parent_id}
        advance(self.client, upload, experiment_id=self.experiment_id, tags=tags, datasets=self._datasets)
