"""A real `mlflow models serve` process on loopback, for tests: a model's address in, predictions of rows out."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from support.small_experiment import Running, wait_until


class ModelServer:
    """Use as a context manager."""

    def __init__(self, model: str, *, tracking_uri: str, folder: Path):
        self.model, self.tracking_uri, self.log = model, tracking_uri, folder / "model_server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self) -> "ModelServer":
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", self.model, "--port"]
        command += [str(self.port), "--host", "127.0.0.1", "--env-manager", "local"]
        environment = os.environ | {"MLFLOW_TRACKING_URI": self.tracking_uri}
        environment.pop("PYTHONPATH", None)  # what it needs lies in the model
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.log.parent, start_new_session=True
            )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.loads(response.read())["predictions"]

    def _wait(self) -> None:
        log = self.log
        wait_until(self._answers, running=Running(self.process, log))

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2).close()
        except OSError:
            return False
        return True
