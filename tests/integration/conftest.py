import json
import os
import secrets
import subprocess
import sys
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
        self.result = self.run([sys.executable, "-m", "tinyllm_ray.cli"])

    def run(self, program: list[str]) -> dict[str, Any]:
        done = self.command(program, "run")
        assert done.returncode == 0 and "started Ray" not in done.stderr, done.stderr[-3000:]
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


@pytest.fixture(scope="session")
def object_store(object_store_port: int) -> Iterator[None]:
    """A real S3-compatible server, named in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=object_store_port, verbose=False)
    server.start()
    yield
    server.stop()


@pytest.fixture
def bucket(object_store: None) -> str:
    """The address of an empty bucket."""
    import boto3

    name = f"bucket-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"
