"""The pipeline's files on file:// and on an S3-compatible server: stores, checkpoints, model, artifacts."""

from pathlib import Path

import pytest
from support.small_experiment import run, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.data import store

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_stores_checkpoints_and_models_lie_where_the_uri_says(
    scheme: str, bucket: str, shared_ray: dict[str, str], tmp_path: Path
) -> None:
    out = f"{bucket}/runs/small" if scheme == "s3" else f"file://{tmp_path}/shared/small"
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
    path = write_experiment(tmp_path, output={"dir": out}, tracking=tracking, training={"keep_checkpoints": True})
    assert run("generate", path, env=shared_ray)["teacher_rows_generated"] == 112
    assert run("generate", path, env=shared_ray)["teacher_rows_generated"] == 0
    (trained,) = run("train", path, env=shared_ray)["models"]
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
