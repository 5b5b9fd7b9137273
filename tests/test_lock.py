import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tinyllm_ray import lock, storage
from tinyllm_ray.schema.base import UserError

HOLDER = """
import signal, sys, threading
from tinyllm_ray import lock
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with lock.hold(sys.argv[1], command="run", say=print):
    print("held", flush=True)
    threading.Event().wait()
"""


def start_holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def claims(folder: Path) -> list[Path]:
    return sorted((folder / ".lock").glob("*.json"))


def hold(folder: Path, said: list[str] | None = None) -> None:
    with lock.hold(str(folder), command="train", say=(said if said is not None else []).append):
        assert len(claims(folder)) == 1


def test_a_folder_is_held_until_the_context_ends_and_no_longer(tmp_path: Path) -> None:
    said: list[str] = []
    hold(tmp_path, said)
    hold(tmp_path, said)
    assert claims(tmp_path) == [] and said == []


def test_a_second_process_is_refused_with_who_holds_the_folder(tmp_path: Path) -> None:
    holder = start_holder(tmp_path)
    try:
        words = rf"in use by `run` on host .*, process {holder.pid}, since 20\d\d-.*Stop it with: kill {holder.pid}"
        with pytest.raises(UserError, match=words):
            hold(tmp_path)
        with pytest.raises(UserError, match=words):
            lock.refuse_held(str(tmp_path))
        assert len(claims(tmp_path)) == 1, "the second leaves the first one's claim and none of its own"
    finally:
        holder.terminate()
        assert holder.wait(timeout=30) == 143
    lock.refuse_held(str(tmp_path))
    assert claims(tmp_path) == []


def test_the_lock_of_a_killed_process_is_removed_and_said(tmp_path: Path) -> None:
    holder = start_holder(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    assert len(claims(tmp_path)) == 1
    lock.refuse_held(str(tmp_path))
    said: list[str] = []
    hold(tmp_path, said)
    assert len(said) == 1 and f"process {holder.pid}" in said[0] and "no longer runs" in said[0]
    assert claims(tmp_path) == []


def plant(folder: Path, *, age_s: float, **changes: object) -> Path:
    """A claim of another machine, last rewritten `age_s` seconds ago."""
    other = {"host": "other", "machine": "other/1", "pid": os.getpid(), "started": 1.0, "since": 0.0}
    path = folder / ".lock" / "planted.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**other, "command": "run", "job": "", **changes}))
    written = path.stat().st_mtime - age_s
    os.utime(path, (written, written))
    return path


def test_a_claim_of_another_machine_counts_until_its_last_sign_of_life_is_old(tmp_path: Path) -> None:
    path = plant(tmp_path, age_s=lock.STALE_S - 60)
    with pytest.raises(UserError, match=r"on host other.*last sign of life, which was 1[12]\d s ago"):
        hold(tmp_path)
    written = path.stat().st_mtime - 120
    os.utime(path, (written, written))
    hold(tmp_path)
    assert not path.exists()


def test_a_job_is_named_with_the_commands_that_follow_and_stop_it(tmp_path: Path) -> None:
    plant(tmp_path, age_s=0, job="raysubmit_7")
    with pytest.raises(
        UserError, match=r"job raysubmit_7.*ray job logs --follow raysubmit_7\nStop it with: ray job stop"
    ):
        lock.refuse_held(str(tmp_path))


def test_a_claim_that_cannot_be_read_counts_by_its_age(tmp_path: Path) -> None:
    path = plant(tmp_path, age_s=0)
    path.write_bytes(b'{"host": ')
    with pytest.raises(UserError, match="a command whose lock file cannot be read"):
        hold(tmp_path)
    os.utime(path, (1.0, 1.0))
    hold(tmp_path)


RIVAL = """
import sys
from tinyllm_ray import lock
from tinyllm_ray.schema.base import UserError
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock.hold(sys.argv[1], command="run", say=print):
        print("held", flush=True)
        sys.stdin.readline()
except UserError:
    print("refused", flush=True)
"""


def test_of_many_processes_that_start_at_once_at_most_one_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RIVAL, str(tmp_path)]
    rivals = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    assert [rival.stdout.readline() for rival in rivals if rival.stdout] == ["ready\n"] * 4
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("\n")
    results = [rival.stdout.readline() for rival in rivals if rival.stdout]
    for rival in rivals:
        rival.communicate(timeout=60)
    assert set(results) <= {"held\n", "refused\n"} and results.count("held\n") <= 1
    assert claims(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output\.dir .*file cannot be written"):
        hold(tmp_path / "file")


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beaten, written = threading.Event(), []

    def write(uri: str, data: bytes, *, patience_s: float | None = None) -> None:
        written.append(uri)
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        Path(uri).write_bytes(data)
        if len(written) == 3:
            beaten.set()

    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    monkeypatch.setattr(storage, "write_bytes", write)
    with lock.hold(str(tmp_path), command="run", say=print):
        assert beaten.wait(timeout=30)
    assert len(set(written)) == 1 and claims(tmp_path) == []
