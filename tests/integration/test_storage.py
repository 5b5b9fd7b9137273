"""The pipeline's files on an S3-compatible server: stores, checkpoints, model. test_progress.py has them on file://."""

import os
from pathlib import Path

import pytest
from support.left_files import assert_all_is_there
from support.small_experiment import run, write_experiment

pytestmark = pytest.mark.engine


def test_stores_checkpoints_and_models_lie_where_the_uri_says(bucket: str, tmp_path: Path) -> None:
    out = f"{bucket}/runs/small"
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
    path = write_experiment(tmp_path, output={"dir": out}, tracking=tracking, training={"keep_checkpoints": True})
    assert run("generate", path, env=dict(os.environ))["teacher_rows_generated"] == 112
    assert run("generate", path, env=dict(os.environ))["teacher_rows_generated"] == 0
    (trained,) = run("train", path, env=dict(os.environ))["models"]
    assert_all_is_there(out, trained, checkpoints=[15, 20])
    assert not (tmp_path / "s3:").exists()
