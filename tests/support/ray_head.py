"""A head of its own, as `ray start --head` makes it: dashboard, job server and token authentication on loopback."""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).parent / "ray")


@dataclass
class Head:
    address: str  # GCS
    dashboard: str  # URL
    env: dict[str, str]
    process: subprocess.Popen

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def running_head(*, token: str, resources: str, cpus: int = 6) -> Iterator[Head]:
    """Everything it starts is gone when the block ends."""
    folder = tempfile.mkdtemp(prefix="rh-", dir="/tmp")  # a short path: Ray's sockets lie below it
    ports = [free_port() for _ in range(3)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    env["REPORTER_UPDATE_INTERVAL_MS"] = "60000"  # nobody looks at the machine's load
    env["RAY_DASHBOARD_STARTUP_TIMEOUT_S"] = "300"  # busy cores do not keep Ray's 60
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"  # a job runs `python`
    command = [RAY, "start", "--head", "--block", f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={ports[2]}", f"--temp-dir={folder}"]
    command += [f"--num-cpus={cpus}", f"--resources={resources}", "--object-store-memory=300000000"]
    log = Path(folder, "start.log")
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    head = Head("", f"http://127.0.0.1:{ports[1]}", env, process)
    try:
        while "Ray runtime started" not in (text := log.read_text()):
            assert process.poll() is None, text
            time.sleep(0.3)
        found = re.search(r"--address='([^']+)'", text)
        head.address = found.group(1) if found else f"127.0.0.1:{ports[0]}"
        yield head
    finally:  # nothing of it is needed any more, so nothing is waited for
        for started in [*head.descendants(), psutil.Process(process.pid)] if process.poll() is None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                started.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Below those that the system gives to whoever asks for any, as each process of a starting Ray does."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
