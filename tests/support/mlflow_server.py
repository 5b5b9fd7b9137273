"""A real `mlflow server` process over SQLite, for tests: started, stopped for a while, and started again."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from support.small_experiment import Running, wait_until


class MlflowServer:
    """One worker on loopback; use as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        database: str | None = None,
        artifacts: str | None = None,
        login: tuple[str, str] | None = None,
    ):
        self.folder, self.login = folder, login
        self.artifacts = artifacts or str(folder / "artifacts")
        self.database = database or f"sqlite:///{folder}/mlflow.db"
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, "--artifacts-destination", self.artifacts]
        command += ["--workers", "1"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # jobs of its own, in processes that nobody uses
        if self.login:
            name, password = self.login
            settings = self.folder / "auth.ini"
            lines = [
                "[mlflow]",
                "default_permission = READ",
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
                f"database_uri = sqlite:///{self.folder}/auth.db",
                f"admin_username = {name}",
                f"admin_password = {password}",
            ]
            settings.write_text("\n".join(lines) + "\n")
            command += ["--app-name", "basic-auth"]
            environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-tests"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        self._wait()

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _wait(self) -> None:
        log = self.folder / "server.log"
        wait_until(self._answers, running=Running(self.process, log))

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True
