"""One trial's files -> its MLflow run, as often as wanted: what is there already is not written again.

In: <trial>/metrics/part-*.jsonl, result.json | stopped.json | failure.json, predictions/, model/README.md.
Out: one child run with parameters, metrics by step, tags and artifacts.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag

from tinyllm_ray import storage
from tinyllm_ray.config import public
from tinyllm_ray.redact import redact, redact_text
from tinyllm_ray.schema import Experiment
from tinyllm_ray.tracking.shown import NOTE, PRIMARY, TABLES, answer_table, child_note, shown_params

KEY_TAG = "tinyllm.key"
ENDS = ("result.json", "failure.json", "stopped.json")
STATUS = {"result.json": "FINISHED", "failure.json": "FAILED", "stopped.json": "KILLED"}
METRICS_PER_CALL = 900  # the server takes 1,000 at most
PARAMS_PER_CALL = 100
LONGEST_PARAM = 6000
_TEXTS = (".json", ".yaml", ".md", ".txt")
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")


@dataclass
class TrialUpload:
    """What of one trial is in MLflow already."""

    key: str
    folder: str
    name: str
    config: Experiment
    seed: int
    tags: dict[str, str]
    questions: dict[str, str] = field(default_factory=dict)  # split -> question file
    run_id: str | None = None
    parts: dict[str, str] = field(default_factory=dict)  # file -> its stamp when it was uploaded
    last_step: dict[str, int] = field(default_factory=dict)  # metric -> newest step in MLflow
    last_time: int = 0  # of the newest metric, unix ms
    done: bool = False


def advance(
    client: mlflow.MlflowClient,
    upload: TrialUpload,
    *,
    experiment_id: str,
    tags: dict[str, str],
    datasets: Sequence[DatasetInput] = (),
) -> None:
    """Upload what is new. Whatever it raises, it may be called again."""
    if upload.run_id is None:
        _start(client, upload, experiment_id=experiment_id, tags=tags, datasets=datasets)
        if upload.done:
            return
    ended = [name for name in ENDS if storage.exists(storage.join(upload.folder, name))]
    for uri in storage.list_files(storage.join(upload.folder, "metrics"), ".jsonl"):
        stamp = storage.stamp(uri)
        if upload.parts.get(uri) != stamp:  # a resumed trial writes a part anew
            _log_part(client, upload, storage.read_bytes(uri))
            upload.parts[uri] = stamp
    if ended:
        _finish(client, upload, ended[0])
        upload.done = True


def find_or_create(
    client: mlflow.MlflowClient, key: str, *, experiment_id: str, name: str, tags: dict[str, str]
) -> Run:
    """The run of this key; a killed and repeated upload finds the one it made."""
    found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    if found:
        return found[0]
    return client.create_run(experiment_id, tags={KEY_TAG: key, **clean_tags(tags)}, run_name=name)


def log_params(client: mlflow.MlflowClient, run: Run, params: dict[str, Any]) -> None:
    """Log what the run lacks; MLflow never changes what it holds."""
    flat = {_NOT_IN_NAMES.sub("_", key)[:250]: str(value)[:LONGEST_PARAM] for key, value in params.items()}
    known = run.data.params
    missing = [Param(key, value) for key, value in flat.items() if key not in known]
    for start in range(0, len(missing), PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=missing[start : start + PARAMS_PER_CALL])


def clean_tags(tags: dict[str, str]) -> dict[str, str]:
    return {_NOT_IN_NAMES.sub("_", key)[:250]: redact_text(str(value))[:LONGEST_PARAM] for key, value in tags.items()}


def _start(
    client: mlflow.MlflowClient,
    upload: TrialUpload,
    *,
    experiment_id: str,
    tags: dict[str, str],
    datasets: Sequence[DatasetInput],
) -> None:
    parent = tags["mlflow.parentRunId"]
    run = find_or_create(
        client,
        f"{parent}:{upload.key}",
        experiment_id=experiment_id,
        name=upload.name,
        tags=tags | {"seed": str(upload.seed)} | upload.tags,
    )
    run_id = run.info.run_id
    log_params(client, run, shown_params(upload.config, seed=upload.seed, variant=upload.tags["variant"]))
    if datasets:
        client.log_inputs(run_id, list(datasets))
    for name in run.data.metrics:
        newest = max(client.get_metric_history(run_id, name), key=lambda metric: metric.step)
        upload.last_step[name] = newest.step
        upload.last_time = max(upload.last_time, newest.timestamp)
    result = storage.exists(storage.join(upload.folder, "result.json"))
    stopped = run.data.tags.get("ended") == "stopped" and not result
    upload.done = run.info.status == "FINISHED" or stopped
    if run.info.status in ("FAILED", "KILLED") and not upload.done:
        client.update_run(run_id, status="RUNNING")
    upload.run_id = run_id


def _log_part(client: mlflow.MlflowClient, upload: TrialUpload, lines: bytes) -> None:
    """Steps that MLflow has are left out: after a restart a trial does some of them again."""
    last_step, metrics, newest = dict(upload.last_step), [], upload.last_time
    for line in lines.splitlines():
        row = json.loads(line)
        step, written = int(row.pop("step")), int(row.pop("time"))
        for name, value in row.items():
            if name not in last_step or step > last_step[name]:
                metrics.append(Metric(name, float(value), written, step))
                last_step[name] = step
        newest = max(newest, written)
    _log_metrics(client, upload, metrics)
    upload.last_step, upload.last_time = last_step, newest


def _log_metrics(client: mlflow.MlflowClient, upload: TrialUpload, metrics: list[Metric]) -> None:
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(upload.run_id, metrics=metrics[start : start + METRICS_PER_CALL])


def _finish(client: mlflow.MlflowClient, upload: TrialUpload, ended: str) -> None:
    outcome = storage.read_json(storage.join(upload.folder, ended))
    run = client.get_run(upload.run_id)
    numbers = {
        name if "/" in name else f"result/{name}": float(value)
        for name, value in outcome.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed"
    }
    if "eval/accuracy" in outcome:
        numbers[PRIMARY] = float(outcome["eval/accuracy"])
    if "parameters" in outcome:
        log_params(client, run, {"student.parameters": outcome["parameters"]})
    known, step, written = run.data.metrics, int(outcome["steps"]), max(upload.last_time, run.info.start_time) + 1
    final = [Metric(n, v, written, step) for n, v in numbers.items() if n not in known or known[n] != v]
    _log_metrics(client, upload, final)
    how, tags = ended.removesuffix(".json"), run.data.tags
    differs = {key.removeprefix("differs."): value for key, value in tags.items() if key.startswith("differs.")}
    variant = upload.tags["variant"]
    note = child_note(outcome, variant=variant, seed=upload.seed, differs=differs, command=tags["command"])
    marks = {"ended": how, NOTE: redact_text(note), **_log_tables(client, upload)}
    client.log_batch(upload.run_id, tags=[RunTag(name, value) for name, value in marks.items()])
    with tempfile.TemporaryDirectory() as folder:
        _collect(upload, outcome, Path(folder))
        client.log_artifacts(upload.run_id, folder)
    client.set_terminated(upload.run_id, STATUS[ended])


def _log_tables(client: mlflow.MlflowClient, upload: TrialUpload) -> dict[str, str]:
    """The answers as tables; the tag by which MLflow's pages find them."""
    tables = []
    for split, questions in upload.questions.items():
        predictions = storage.join(upload.folder, "predictions", f"{split}.parquet")
        if storage.exists(predictions) and storage.exists(questions):
            name = f"tables/{split}.json"
            client.log_dict(upload.run_id, answer_table(predictions, questions), name)
            tables.append({"path": name, "type": "table"})
    return {TABLES: json.dumps(tables)} if tables else {}


def _collect(upload: TrialUpload, outcome: dict[str, Any], target: Path) -> None:
    """The artifacts, texts without secrets; the config is written anew, so that what blanks secrets has seen it."""
    names = [*ENDS, "evaluations.json", "model/README.md"]
    files = [uri for uri in (storage.join(upload.folder, name) for name in names) if storage.exists(uri)]
    for uri in files + storage.list_files(storage.join(upload.folder, "predictions"), ".parquet"):
        path = target / uri.removeprefix(upload.folder).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = storage.read_bytes(uri)
        path.write_bytes(redact_text(data.decode()).encode() if path.suffix in _TEXTS else data)
    (target / "config.yaml").write_text(yaml.safe_dump(public(upload.config), sort_keys=False), encoding="utf-8")
    if "traceback" in outcome:
        (target / "traceback.txt").write_text(redact(outcome["traceback"]), encoding="utf-8")
