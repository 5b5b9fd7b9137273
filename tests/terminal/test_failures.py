import errno
import sqlite3

import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from tinyllm_ray.schema.base import UserError
from tinyllm_ray.terminal.failures import message_of

MISTAKE = UserError("training.learning_rate: lower it")


def as_ray_raises(cause: Exception) -> Exception:
    """What `ray.get` raises for a task that raised `cause`."""
    return RayTaskError("task", "Traceback (most recent call last): ...", cause).as_instanceof_cause()


def raised_from(cause: Exception) -> Exception:
    error = RuntimeError("a stage failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MISTAKE,
        as_ray_raises(MISTAKE),
        WorkerGroupError("ranks failed", {0: RuntimeError("lost"), 1: as_ray_raises(MISTAKE)}),
        ControllerError(MISTAKE),
        as_ray_raises(WorkerGroupError("ranks failed", {0: MISTAKE})),
        raised_from(raised_from(MISTAKE)),
    ],
    ids=["plain", "task", "ranks", "controller", "task of ranks", "chain"],
)
def test_a_users_mistake_is_found_in_whatever_it_is_wrapped(error: Exception) -> None:
    assert message_of(error) == "training.learning_rate: lower it"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "No space left on device: '/data/x' (OSError)"),
        (as_ray_raises(PermissionError(errno.EACCES, "Permission denied", "/x")), "(PermissionError)"),
        (ConnectionRefusedError("refused"), "refused (ConnectionRefusedError)"),
        (pa.ArrowInvalid("Parquet magic bytes not found"), "Parquet magic bytes not found (ArrowInvalid)"),
        (sqlite3.DatabaseError("file is not a database"), "file is not a database (DatabaseError)"),
        (MemoryError(), "MemoryError (MemoryError)"),
    ],
)
def test_what_files_servers_and_databases_do_is_one_line(error: Exception, words: str) -> None:
    message = message_of(error)
    assert message is not None and words in message and "Traceback" not in message


def test_a_fault_of_this_program_keeps_its_traceback() -> None:
    hidden = KeyError("eval/accuracy")
    hidden.__context__ = FileNotFoundError("x")  # handled before; no reason for the fault
    assert message_of(hidden) is None
    assert message_of(as_ray_raises(KeyError("x"))) is None


def test_a_message_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    assert message_of(UserError("refused: correct horse battery")) == "refused: ***"
