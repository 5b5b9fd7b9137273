"""The Tracker against a real `mlflow server` with basic authentication and its artifacts in a bucket."""

import json
import secrets
import time
from collections.abc import Iterator

import boto3
import mlflow
import pytest
from support.mlflow_server import MlflowServer
from support.small_experiment import wait_until
from support.tiny_students import save_model
from support.trial_folders import START_MS, make_experiment, write_trial

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.tracking.read import Records
from tinyllm_ray.tracking.tracker import Tracker

pytestmark = pytest.mark.engine


PASSWORD = secrets.token_hex(16)
SYNC_S = 0.3


@pytest.fixture(scope="module")
def server(object_store: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One for all tests of this file."""
    boto3.client("s3").create_bucket(Bucket="artifacts")
    folder = tmp_path_factory.mktemp("server")
    with MlflowServer(folder, artifacts="s3://artifacts/mlflow", login=("keeper", PASSWORD)) as running:
        yield running


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "keeper")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def write_part(folder: str, first: int) -> None:
    lines = [{"step": step, "time": START_MS + step, "train/loss": 100.0 - step} for step in range(first, first + 10)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    storage.write_bytes(f"{folder}/metrics/part-{first:09d}.jsonl", text.encode())


def write_trial_end(folder: str) -> None:
    storage.write_json(f"{folder}/result.json", {"key": "k", "seed": 0, "steps": 30, "eval/accuracy": 0.5})


def test_a_server_that_is_stopped_in_mid_training_loses_no_metric(server, login, tmp_path):
    folder = str(tmp_path / "out" / "trials" / "k")
    overrides = {"tracking.uri": server.uri, "tracking.sync_every_s": SYNC_S, "tracking.flush_timeout_s": 120}
    experiment = make_experiment(str(tmp_path / "out"), **overrides)
    with Tracker(experiment, output_dir=str(tmp_path / "out"), lineage={}) as tracker:
        tracker.watch("k", folder=folder, name="k", config=experiment, seed=0, tags={"variant": "label_only"})
        write_part(folder, 1)
        wait_until(lambda: tracker.run_id("k"))
        run_id = tracker.run_id("k")
        server.stop()
        for first in (11, 21):  # training goes on meanwhile, and uploads are tried in vain
            write_part(folder, first)
            time.sleep(3 * SYNC_S)
        write_trial_end(folder)
        server.start()
    records = Records(server.uri)
    assert records.curve(run_id, "train/loss") == [(step, 100.0 - step) for step in range(1, 31)]
    client = mlflow.MlflowClient(server.uri)
    assert len(client.get_metric_history(run_id, "train/loss")) == 30
    (run,) = records.children(records.parent("study", output_dir=str(tmp_path / "out")))
    assert (run.status, run.tags["ended"], run.metrics["eval/accuracy"]) == ("FINISHED", "result", 0.5)
    assert json.loads(records.artifact(run_id, "result.json"))["steps"] == 30


def test_artifacts_go_through_the_server_to_its_bucket(server, login, tmp_path, bucket):
    folder = f"{bucket}/out/trials/k"
    write_trial(folder, key="k", seed=0, accuracy=0.5)
    experiment = make_experiment(f"{bucket}/out", **{"tracking.uri": server.uri})
    with Tracker(experiment, output_dir=f"{bucket}/out", lineage={}) as tracker:
        tracker.watch("k", folder=folder, name="k", config=experiment, seed=0, tags={"variant": "label_only"})
    records = Records(server.uri)
    (run,) = records.children(records.parent("study", output_dir=f"{bucket}/out"))
    table = records.artifact(run.run_id, "predictions/test.parquet")
    assert table == storage.read_bytes(f"{folder}/predictions/test.parquet")
    tables = storage.list_files("s3://artifacts/mlflow", "predictions/test.parquet")
    (stored,) = [uri for uri in tables if run.run_id in uri]
    assert storage.read_bytes(stored) == table


def test_a_server_with_basic_authentication_takes_who_has_the_password_and_no_one_else(
    server, tmp_path, monkeypatch, request
):
    folder = str(tmp_path / "out" / "trials" / "k")
    write_trial(folder, key="k", seed=0, accuracy=0.5)
    save_model(f"{folder}/model", "t5")
    experiment = make_experiment(str(tmp_path / "out"), **{"tracking.uri": server.uri})
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        Tracker(experiment, output_dir=str(tmp_path / "out"), lineage={})
    request.getfixturevalue("login")
    with Tracker(experiment, output_dir=str(tmp_path / "out"), lineage={}) as tracker:
        tracker.watch("k", folder=folder, name="k", config=experiment, seed=0, tags={"variant": "label_only"})
        example = {"example": {"question": "What?", "choices": ["red", "green"]}, "about": "the winner"}
        made = tracker.register("k", f"{folder}/model", name="study", **example)
    records = Records(server.uri)
    (run,) = records.children(records.parent("study", output_dir=str(tmp_path / "out")))
    assert made.run_id == run.run_id
    answered = mlflow.pyfunc.load_model("models:/study@champion").predict([example["example"]])
    assert answered["answer"][0] in ("red", "green")
    assert len(records.curve(run.run_id, "train/loss")) == 8
    assert "predictions/test.parquet" in records.files(run.run_id, "predictions")
    stored = [path for path in server.folder.rglob("*") if path.is_file() and path.name != "auth.ini"]
    assert stored and [path for path in stored if PASSWORD.encode() in path.read_bytes()] == []
    kept = storage.list_files("s3://artifacts")
    assert kept and [uri for uri in kept if PASSWORD.encode() in storage.read_bytes(uri)] == []
