"""How long storage and servers are waited for: local disks answer at once; the rest may be slow, away or silent.

In: one action on a file and its address. Out: its result, or an OSError that names the address. Nothing waits for ever,
and whatever is waited for is said every `SAY_EVERY_S` seconds.
"""

import errno
import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa

from tinyllm_ray.redact import redact_text
from tinyllm_ray.schema.base import CREDENTIALS_OF

RETRY_S = 90.0  # how long an error that may pass is tried again
ANSWER_S = 30.0  # how long a storage may be silent about one file
LISTING_S = 600.0  # about a folder of any size
CONTENT_S = 3600.0  # while the content of one file is on its way
SAY_EVERY_S = 10.0
_PASSING = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.EPIPE, errno.ETIMEDOUT),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH),
}
_PASSING_TEXT = re.compile(
    r"(?i)network|connect|curlCode|timed?[ _-]?out|temporar|unavailable|throttl|slow[ _]?down"
    r"|internal[ _](failure|error)|HTTP status 5\d\d"
)
_THREAD = "waiting"
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Silence(OSError):
    """What was asked did not answer in time; native code may wait on."""


def retry(action: Callable[[], T], uri: str, *, patience_s: float = RETRY_S, answer_s: float = ANSWER_S) -> T:
    """Try again with growing pauses while the error may pass, and say so; a missing file or a full disk will not.

    `patience_s` bounds all tries together, `answer_s` the silence of a storage in one of them; silence is not tried
    again. Raises OSError.
    """
    began, pause, last_said = time.monotonic(), 0.25, -SAY_EVERY_S
    answer_s = min(answer_s, patience_s) if patience_s < RETRY_S else answer_s
    reason: OSError | None = None
    while True:
        try:
            return watched(action, f"storage: {_place(uri)}", answer_s=answer_s) if is_remote(uri) else action()
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = reason if reason and isinstance(error, Silence) else error
            left = began + patience_s - time.monotonic()
            if not may_pass(error) or left < pause:
                raise (_not_reached(uri, reason) if is_remote(uri) else error) from None
            answer_s = min(answer_s, left)
            if time.monotonic() - last_said >= SAY_EVERY_S:
                last_said = time.monotonic()
                _log.warning("storage: %s; tried again for %.0f s more", redact_text(first_line(error)), left)
        time.sleep(pause)
        pause = min(pause * 2, 8.0)


def is_waiting() -> bool:
    """Whether something was given up that native code still waits for."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def may_pass(error: OSError) -> bool:
    """Whether trying again can help: networks, servers and shared disks come back; the rest stays as it is."""
    if error.errno is not None:
        return error.errno in _PASSING
    without_names = re.sub(r"'[^']*'", "", str(error))  # a bucket may be called connections
    return bool(_PASSING_TEXT.search(without_names))


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def begin(action: Callable[[], T], *, name: str) -> queue.SimpleQueue[tuple[T | None, BaseException | None]]:
    """The action in a thread that the end of the program does not wait for; its value or its error in the queue."""
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    threading.Thread(target=_put_result, args=(action, results), name=name, daemon=True).start()
    return results


def watched(action: Callable[[], T], what: str, *, answer_s: float) -> T:
    """The action in a thread of its own: native code has waits without an end, and hears no signal meanwhile.

    Raises Silence where it takes longer than `answer_s`, and what the action raises.
    """
    results, began = begin(action, name=_THREAD), time.monotonic()
    while (left := began + answer_s - time.monotonic()) > 0:
        try:
            value, error = results.get(timeout=min(left, SAY_EVERY_S))
        except queue.Empty:
            waited = time.monotonic() - began
            _log.warning("%s has not answered for %.0f s", redact_text(what), waited)
            continue
        if type(error) is pa.ArrowException:  # how some storages say what is an OSError elsewhere
            raise OSError(str(error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # there is a value where there is no error
    raise Silence(f"no answer in {answer_s:.0f} s")


def _put_result(action: Callable[[], Any], results: queue.SimpleQueue) -> None:
    try:
        results.put((action(), None))
    except BaseException as error:  # noqa: BLE001 it is raised where the result is waited for
        results.put((None, error))


def _not_reached(uri: str, error: OSError) -> OSError:
    named = CREDENTIALS_OF.get(uri.partition("://")[0], "")
    hint = f"; what it needs is read from {named}" if named else ""
    return OSError(f"{redact_text(_place(uri))}: {redact_text(first_line(error))}{hint}")


def _place(uri: str) -> str:
    """Scheme and bucket: the file in it says nothing on a storage that does not answer."""
    return "/".join(uri.split("/")[:3])
