"""The pipeline's files on file:// and on an S3-compatible server: stores, checkpoints, model, artifacts."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_experiment import run, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.data import store

pytestmark = pytest.mark.engine


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    keys = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "ENDPOINT_URL": f"http://127.0.0.1:{port}", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    server.stop()


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_stores_checkpoints_and_models_lie_where_the_uri_says(scheme: str, bucket: str, tmp_path: Path) -> None:
    out = f"{bucket}/runs/small" if scheme == "s3" else f"file://{tmp_path}/shared/small"
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
    path = write_experiment(tmp_path, output={"dir": out}, tracking=tracking)
    assert run("generate", path, env=dict(os.environ))["teacher_rows_generated"] == 112
    assert run("generate", path, env=dict(os.environ))["teacher_rows_generated"] == 0
    (trained,) = run("train", path, env=dict(os.environ))["models"]
    assert trained.startswith(out)
    trial = trained.removesuffix("/model")
    names = [name.removeprefix(trial + "/") for name in storage.list_files(trial)]
    assert {"config.yaml", "result.json", "model/model.safetensors", "predictions/test.parquet"} <= set(names)
    assert [name for name in names if name.startswith("checkpoints/") and name.endswith("state.json")] == [
        "checkpoints/000000015/state.json",
        "checkpoints/000000020/state.json",
    ]
    stores = {part.rpartition("/")[0].rpartition("/")[0] for part in storage.list_files(f"{out}/stores", ".parquet")}
    (folder,) = stores
    assert len(store.read(folder, "train", ["key"])) == 96
    assert not (tmp_path / "s3:").exists() and not (tmp_path / "file:").exists()
