"""An object store that is away for 30 seconds while a trial writes to it."""

import contextlib
import os
import select
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from support.ray_head import free_port
from support.small_experiment import PATIENCE_S, Running, wait_until

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.rows import Rationale

pytestmark = [pytest.mark.engine, pytest.mark.faults]
AWAY_S, PARTS = 30, 60
WRITER = """
import sys, time
from test_storage import part
from tinyllm_ray.data import store
for number in range(int(sys.argv[2])):
    store.append(sys.argv[1], "train", part(number))
    print(number, flush=True)
    time.sleep(0.2)
"""


def test_a_store_that_is_away_for_30_seconds_loses_no_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record_fault: Callable
) -> None:
    port = free_port()
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    with gated_server(port):
        boto3.client("s3").create_bucket(Bucket="bucket")
        folder = "s3://bucket/out/store"
        store.open_store(folder, {"dataset": "words", "teacher": "one"})
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        command = [sys.executable, "-c", WRITER, folder, str(PARTS)]
        log = tmp_path / "writer.log"
        with log.open("w") as said:
            process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=said, stderr=said)
        writer = Running(process, log)
        wait_until(lambda: len(storage.list_files(folder, ".parquet")) >= 5, running=writer)
        Gate.away.set()
        back = time.monotonic() + AWAY_S
        wait_until(lambda: time.monotonic() >= back, running=writer)
        Gate.away.clear()
        there = len(storage.list_files(folder, ".parquet"))
        assert there < PARTS
        seconds = wait_until(lambda: len(storage.list_files(folder, ".parquet")) > there, running=writer)
        assert writer.process.wait(PATIENCE_S) == 0, writer.said()
        keys = store.read(folder, "train", ["key"])["key"].to_pylist()
        lost, twice = 4 * PARTS - len(set(keys)), store.count_twice(folder, "train")
        assert (lost, twice) == (0, 0)
    record_fault("storage returns errors for 30 s", rows_lost=lost, rows_twice=twice, seconds=seconds)


def part(number: int) -> list[Rationale]:
    row = {"sample": 0, "rationale": "so", "predicted_answer": "", "finish_reason": "stop", "failure": ""}
    row |= {"dropped_examples": 0, "input_tokens": 1, "output_tokens": 1}
    names = [f"q{number * 4 + i}" for i in range(4)]
    return [Rationale(key=name, question_id=name, **row) for name in names]


def environment(port: int) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true"}


class Gate(socketserver.BaseRequestHandler):
    """Passes a connection on to the object store, or answers as one that is overloaded."""

    away = threading.Event()
    target = 0

    def handle(self) -> None:
        if Gate.away.is_set():
            self.request.recv(65536)
            self.request.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", Gate.target)) as behind:
            ends = [self.request, behind]
            while not Gate.away.is_set():
                for end in select.select(ends, [], [], 0.5)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[1 - ends.index(end)].sendall(data)


@contextlib.contextmanager
def gated_server(port: int) -> Iterator[None]:
    Gate.target = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(Gate.target)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Gate) as gate:
        threading.Thread(target=gate.serve_forever, daemon=True).start()
        try:
            wait_until(lambda: answers(Gate.target) or server.poll() is not None)
            assert server.poll() is None
            yield
        finally:
            Gate.away.clear()
            gate.shutdown()
            server.terminate()
            server.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
