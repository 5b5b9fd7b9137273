import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from tinyllm_ray.patience import may_pass, retry


def test_a_transient_error_is_tried_again_and_a_full_disk_is_not() -> None:
    tries: list[int] = []

    def passes_on_the_third() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("connection reset")
        return "read"

    def full() -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "no space left")

    assert retry(passes_on_the_third, "/a") == "read"
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(OSError, match="no space left"):
        retry(full, "/a")
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.ECONNRESET, "reset"), True),
        (OSError(errno.ESTALE, "stale file handle"), True),
        (OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7"), True),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: reduce your request rate"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation"), True),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (OSError(errno.EROFS, "read-only"), False),
        (OSError(errno.ENAMETOOLONG, "too long"), False),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation"), False),
        (OSError("When reading 'connections/network.json': AWS Error ACCESS_DENIED during HeadObject"), False),
        (OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"), False),
        (OSError("Corrupt snappy compressed data."), False),
    ],
)
def test_only_an_error_that_can_pass_is_waited_for(error: OSError, passes: bool) -> None:
    assert may_pass(error) is passes


def test_waiting_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def never() -> None:
        raise OSError(errno.ECONNREFUSED, "Connection refused", "http://me:hunter22@host")

    with pytest.raises(OSError, match="refused"):
        retry(never, "/a", patience_s=0.3)
    assert len(caplog.messages) == 1 and "Connection refused" in caplog.text and "tried again for 0 s" in caplog.text
    assert "hunter22" not in caplog.text


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An object store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        keys = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
        for name, value in {**keys, "ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield


COMMAND = """
import typer
from tinyllm_ray import patience, storage
from tinyllm_ray.terminal.command import run_command
patience.SAY_EVERY_S = 0.5
app = typer.Typer()
@app.command()
def look() -> None:
    storage.write_bytes("s3://bucket/x", b"", patience_s=1.0)
run_command(app)
"""


def test_a_command_whose_storage_does_not_answer_says_so_and_ends(silent_server: None) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], capture_output=True, text=True, env=os.environ, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "storage: s3://bucket has not answered for 1 s" in done.stderr
    assert "error: s3://bucket: no answer in 1 s; what it needs is read from AWS_ACCESS_KEY_ID" in done.stderr
    assert time.monotonic() - began < 90  # its library alone would wait a minute and a half more


def test_an_error_that_was_met_is_told_rather_than_the_silence_after_it() -> None:
    tries = iter([OSError("temporarily unavailable")])

    def answer() -> None:
        for error in tries:
            raise error
        time.sleep(2)

    with pytest.raises(OSError, match=r"gs://b: temporarily unavailable; .* GOOGLE_APPLICATION_CREDENTIALS"):
        retry(answer, "gs://b/x", patience_s=0.6)


def test_what_a_storage_raises_of_its_own_kind_is_an_error_of_storage() -> None:
    def refuse() -> None:
        raise pa.ArrowException("no token")

    with pytest.raises(OSError, match="abfs://c@acc: no token"):
        retry(refuse, "abfs://c@acc/x")
    assert retry(lambda: 3, "abfs://c@acc/x") == 3
    with pytest.raises(ZeroDivisionError):
        retry(lambda: 1 / 0, "s3://b/x")
