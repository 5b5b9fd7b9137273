import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SHRUNK = [
    "seeds=[0]",
    "dataset.miniature={entities: 12, kinds: 4, attributes: 4, values: 4, train: 24, validation: 8, test: 8, "
    "teacher_steps: 40, teacher_batch_size: 8}",
    "training.steps=12",
    "training.eval_every_steps=6",
    "training.checkpoint_every_steps=6",
    "search.num_samples=3",
    "search.grace_steps=6",
    "pools.student.workers=2",
    "teachers.max_failed_fraction=1",
]


class FinishedMiniature:
    """The miniature experiment, shrunk, run to its end by the command: a real search, its folder and its records."""

    def __init__(self, repository: Path, folder: Path):
        self.repository, self.folder = repository, folder
        self.result = self.run_again()

    def run_again(self) -> dict[str, Any]:
        done = self.command([sys.executable, "-m", "tinyllm_ray.cli"], "run")
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def command(self, program: list[str], name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A command on this experiment, with --json."""
        words = [name, "experiments/miniature.yaml", *SHRUNK, f"output.dir={self.folder}", "--json", *options]
        return subprocess.run(
            [*program, *words],
            capture_output=True,
            text=True,
            cwd=self.repository,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            check=False,
        )


@pytest.fixture(scope="session")
def finished_miniature(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedMiniature:
    return FinishedMiniature(repository, tmp_path_factory.mktemp("miniature"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket on a real S3-compatible server of this test."""
    import boto3
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # servers of one process share what they hold
    keys = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "ENDPOINT_URL": url, "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    server.stop()
