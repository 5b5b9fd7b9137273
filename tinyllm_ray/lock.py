"""One command at a time in an output folder: a claim file for each holder, on local disks and on cloud storage alike.

In: an output folder. Out: a context that holds it, or a UserError that says who does.
A claim: {"host": "a", "machine": "a/4026531836", "pid": 12, "started": 1.0, "since": 2.0, "command": "run", "job": ""}
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tinyllm_ray import storage
from tinyllm_ray.redact import redact_text
from tinyllm_ray.schema.base import UserError

BEAT_S = 30.0  # a holder rewrites its claim this often
STALE_S = 180.0  # a claim of another machine that was not rewritten for so long is left behind
PATIENCE_S = 15.0  # a storage that does not answer at the start is said, and not waited for
_FOLDER = ".lock"


@dataclass(frozen=True)
class Claim:
    host: str
    machine: str  # processes of equal machines see each other's process ids
    pid: int
    started: float  # when the process started; ids are used again
    since: float  # when the folder was claimed; seconds since 1970
    command: str
    job: str  # id of the Ray job that the process drives; empty outside jobs


@contextlib.contextmanager
def hold(folder: str, *, command: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold an output folder until the context ends. Raises UserError where another live process holds it.

    The claim is written first and others' are looked for afterwards, so of two that start at the same moment at most
    one goes on. Claims that were left behind are removed, and `say` gets a line for each.
    """
    own = storage.join(folder, _FOLDER, f"{uuid.uuid4().hex}.json")
    content = json.dumps(asdict(_own_claim(command))).encode()
    try:
        storage.write_bytes(own, content, patience_s=PATIENCE_S)
    except OSError as error:
        reason = redact_text(str(error))
        raise UserError(f"output.dir {folder} cannot be written: {reason}; choose another output.dir") from None
    stop = threading.Event()
    try:
        _refuse_others(folder, now=storage.modified_s(own), say=say)
        beat = threading.Thread(target=_beat, args=(own, content, stop), name="lock-beat", daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
    finally:
        with contextlib.suppress(OSError):  # it ages where the storage is away
            storage.remove(own)


def refuse_held(folder: str) -> None:
    """Raises UserError where a live process holds the folder; claims nothing and changes no claim that is there."""
    if not storage.list_files(storage.join(folder, _FOLDER), ".json"):
        return
    probe = storage.join(folder, _FOLDER, f"{uuid.uuid4().hex}.probe")
    storage.write_bytes(probe, b"")  # the storage's own clock, by which claims age
    try:
        now = storage.modified_s(probe)
    finally:
        storage.remove(probe)
    for uri, claim in _claims(folder):
        if not _left_behind(uri, claim, now=now):
            raise UserError(_in_use(folder, uri, claim, now=now))


def _refuse_others(folder: str, *, now: float, say: Callable[[str], None]) -> None:
    for uri, claim in _claims(folder):
        if not _left_behind(uri, claim, now=now):
            raise UserError(_in_use(folder, uri, claim, now=now))
        storage.remove(uri)
        say(f"output.dir was locked by {_who(claim)}, which no longer runs; its lock was removed")


def _claims(folder: str) -> Iterator[tuple[str, Claim | None]]:
    """Those of other processes; None for a claim that cannot be read."""
    me = psutil.Process()
    for uri in storage.list_files(storage.join(folder, _FOLDER), ".json"):
        try:
            claim = Claim(**json.loads(storage.read_bytes(uri)))
        except FileNotFoundError:  # released meanwhile
            continue
        except (ValueError, TypeError):
            yield uri, None
            continue
        if (claim.machine, claim.pid, claim.started) != (_machine(), me.pid, me.create_time()):
            yield uri, claim


def _left_behind(uri: str, claim: Claim | None, *, now: float) -> bool:
    """On this machine by the process itself, elsewhere by the age of its last sign of life."""
    if claim is not None and claim.machine == _machine():
        try:
            return abs(psutil.Process(claim.pid).create_time() - claim.started) > 1
        except psutil.NoSuchProcess:
            return True
    try:
        return now - storage.modified_s(uri) > STALE_S
    except FileNotFoundError:
        return True


def _in_use(folder: str, uri: str, claim: Claim | None, *, now: float) -> str:
    message = f"output.dir {folder} is in use by {_who(claim)}. Wait for its end, or give another output.dir."
    if claim and claim.job:
        return message + f" Follow it with: ray job logs --follow {claim.job}\nStop it with: ray job stop {claim.job}"
    if claim and claim.machine == _machine():
        return message + f" Stop it with: kill {claim.pid}"
    return message + (
        f" If that process is gone, its lock is removed {STALE_S:.0f} s after its last sign of life, which was "
        f"{max(0.0, now - storage.modified_s(uri)):.0f} s ago."
    )


def _who(claim: Claim | None) -> str:
    if claim is None:
        return "a command whose lock file cannot be read"
    job = f", job {claim.job}" if claim.job else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(claim.since))
    return f"`{claim.command}` on host {claim.host}, process {claim.pid}{job}, since {since}"


def _beat(uri: str, content: bytes, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):  # a storage that is away must not end the work; the next beat may pass
            storage.write_bytes(uri, content)


def _own_claim(command: str) -> Claim:
    process = psutil.Process()
    return Claim(
        host=socket.gethostname(),
        machine=_machine(),
        pid=process.pid,
        started=process.create_time(),
        since=time.time(),
        command=command,
        job=_job(),
    )


def _job() -> str:
    """Ray's name for the submitted job that this process drives."""
    given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return str(given.get("metadata", {}).get("job_submission_id", ""))


def _machine() -> str:
    """Containers may share a host's name, but not its process ids."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{namespace.stat().st_ino if namespace.exists() else ''}"
