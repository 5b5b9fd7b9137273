"""An exception that ended a command -> the one message for it, where a user, a file or a server caused it.

In: whatever a stage raised, as Ray wrapped it. Out: text for the terminal, or None for a fault of this program.
"""

from collections.abc import Iterator

import pyarrow as pa

from tinyllm_ray.redact import redact_text
from tinyllm_ray.schema.base import UserError

_LIBRARIES = ("mlflow", "sqlalchemy", "sqlite3", "httpx", "openai", "huggingface_hub", "safetensors", "botocore")
_LOST = ("OutOfMemoryError", "RayActorError", "ActorDiedError", "NodeDiedError", "WorkerCrashedError", "RaySystemError")


def message_of(error: BaseException) -> str | None:
    causes = list(_causes(error, seen=set()))
    for cause in causes:
        if isinstance(cause, UserError):
            return redact_text(str(cause))
    for cause in causes:
        if isinstance(cause, OSError | pa.ArrowException | MemoryError) or _is_of_a_library(cause):
            return redact_text(f"{_first_lines(cause)} ({type(cause).__name__})")
    return None


def _causes(error: BaseException | None, *, seen: set[int]) -> Iterator[BaseException]:
    """What an error wraps, the innermost first: Ray's cause, Ray Train's failed ranks, then what it was raised from."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    wrapped = [getattr(error, name, None) for name in ("cause", "controller_failure", "_base_exc")]
    for inner in (*wrapped, *getattr(error, "worker_failures", {}).values(), error.__cause__):
        if isinstance(inner, BaseException):
            yield from _causes(inner, seen=seen)
    yield error


def _is_of_a_library(error: BaseException) -> bool:
    """Of one that talks to servers, databases or files of the user, or of Ray on a worker that is gone."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES or type(error).__name__ in _LOST


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:600] or type(error).__name__
