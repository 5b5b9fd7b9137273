"""A server that answers in one of many wrong or odd ways, byte by byte, and what must become of the row.

Each `Mode` writes the raw bytes of an answer to a chat request; a number among them is a pause in seconds.
"""

import gzip
import json
import socketserver
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

GOOD = "Because it is so."
KEY = "sk-the-key-of-the-hostile-server"
TIMEOUT_S = 1.0  # what the client is told where the server hangs, so that it is cut off soon
PATIENT_S = 60.0  # what it is told where the answer comes at once, although on busy cores that may take seconds
CAP_MIB = 1.0
Parts = Iterable[bytes | float]


@dataclass(frozen=True)
class Request:
    number: int  # from 1
    body: dict[str, Any]
    port: int


@dataclass(frozen=True)
class Mode:
    """One way to answer. `failure` is a pattern of the row's failure; empty where the text must come through."""

    name: str
    answer: Callable[[Request], Parts]
    failure: str = ""
    text: str = GOOD
    retries: int = 0

    @property
    def timeout_s(self) -> float:
        """What the client is to be told."""
        return TIMEOUT_S if self.failure in (LATE, ENDLESS) else PATIENT_S


def head(status: int = 200, *lines: str, length: int | None = None) -> bytes:
    lengths = [] if length is None else [f"Content-Length: {length}"]
    fields = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", "Connection: close", *lengths, *lines]
    return "\r\n".join([*fields, "", ""]).encode("latin-1")


def raw(body: bytes, status: int = 200, *lines: str) -> list[bytes]:
    return [head(status, *lines, length=len(body)) + body]


def completion(content: Any = GOOD, **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage} | (
        changes
    )


def says(value: Any, status: int = 200, *lines: str) -> Callable[[Request], Parts]:
    """The same JSON to every request."""
    return sends(json.dumps(value).encode(), status, *lines)


def sends(body: bytes, status: int = 200, *lines: str) -> Callable[[Request], Parts]:
    return lambda request: raw(body, status, *lines)


def writes(*parts: bytes | float) -> Callable[[Request], Parts]:
    return lambda request: parts


def choice(**changes: Any) -> dict[str, Any]:
    return completion(choices=[{"index": 0, "message": {"content": GOOD}, "finish_reason": "stop"} | changes])


def packed(body: bytes, encoding: str) -> list[bytes]:
    return raw(body, 200, f"Content-Encoding: {encoding}")


def chunked(*chunks: bytes) -> bytes:
    return head(200, "Transfer-Encoding: chunked") + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks)


def learns(request: Request) -> Parts:
    """Newer models of OpenAI's refuse max_tokens."""
    if "max_tokens" in request.body:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        return raw(json.dumps({"error": {"message": message}}).encode(), 400)
    return raw(BODY)


def third_time(request: Request) -> Parts:
    return raw(b"{}", 503) if request.number < 3 else raw(BODY)


def redirect(where: str, status: int = 307) -> Callable[[Request], Parts]:
    return lambda request: [head(status, "Location: " + where.replace("PORT", str(request.port)), length=0)]


BODY = json.dumps(completion()).encode()
NO_JSON, BAD, EMPTY = "endpoint answered no JSON", "endpoint answered badly", "empty output"
LOST, LATE = "endpoint not reached", "endpoint timed out"
ENDLESS = "endpoint"  # cut off by the clock or by the size, whichever comes first
BIG = b" " * (3 * 1024**2)
MODES = [
    # JSON of another form
    Mode("cut JSON", sends(BODY[:40]), NO_JSON),
    Mode("an empty body", sends(b""), NO_JSON),
    Mode("a web page", sends(b"<html>login</html>"), NO_JSON),
    Mode("null", says(None), BAD),
    Mode("a number", says(3), BAD),
    Mode("a string", says("fine"), BAD),
    Mode("a list", says([completion()]), BAD),
    Mode("an empty object", says({}), EMPTY),
    Mode("no choices", says(completion(choices=[])), EMPTY),
    Mode("choices null", says(completion(choices=None)), EMPTY),
    Mode("choices a string", says(completion(choices="abc")), BAD),
    Mode("choices an object", says(completion(choices={"0": 1})), BAD),
    Mode("a choice null", says(completion(choices=[None])), BAD),
    Mode("a choice a string", says(completion(choices=["x"])), BAD),
    Mode("message null", says(choice(message=None)), EMPTY),
    Mode("message a string", says(choice(message="x")), BAD),
    Mode("message a list", says(choice(message=[1])), BAD),
    Mode("content null", says(completion(None)), EMPTY),
    Mode("content empty", says(completion("")), EMPTY),
    Mode("content blank", says(completion(" \n\t")), EMPTY),
    Mode("content a number", says(completion(3)), BAD),
    Mode("content true", says(completion(True)), BAD),
    Mode("content an object", says(completion({"text": "x"})), BAD),
    Mode("content a list", says(completion([{"type": "text", "text": "x"}])), BAD),
    Mode("a lone surrogate", sends(BODY.replace(b"Because", b"\\ud83d")), BAD),
    Mode("a NUL in the text", says(completion("a\x00b")), text="a\x00b"),
    Mode("an error with status 200", says({"error": {"message": "no"}}), "endpoint answered with an error"),
    Mode("an error text with status 200", says({"error": "no"}), "endpoint answered with an error"),
    Mode("usage null", says(completion(usage=None))),
    Mode("usage a string", says(completion(usage="many"))),
    Mode("usage negative", says(completion(usage={"prompt_tokens": -1, "completion_tokens": -5}))),
    Mode("usage beyond 32 bits", says(completion(usage={"prompt_tokens": 2**40, "completion_tokens": 2**70}))),
    Mode("usage fractions", says(completion(usage={"prompt_tokens": 1.5, "completion_tokens": True}))),
    Mode("usage NaN", sends(BODY.replace(b": 7", b": NaN"))),
    Mode("finish_reason a number", says(choice(finish_reason=3))),
    Mode("finish_reason a list", says(choice(finish_reason=["stop"]))),
    Mode("a number of 5,000 digits", sends(BODY.replace(b": 7", b": " + b"9" * 5000)), NO_JSON),
    Mode("100,000 brackets", sends(b"[" * 100_000 + b"]" * 100_000), NO_JSON),
    Mode("a key twice", sends(BODY[:-1] + b', "usage": 1}')),
    Mode("a byte order mark", sends(b"\xef\xbb\xbf" + BODY)),
    Mode("UTF-16", sends(json.dumps(completion()).encode("utf-16"))),
    Mode("bytes that are no UTF-8", sends(BODY.replace(b"Because", b"\xff\xfe\x80")), NO_JSON),
    Mode("words after the JSON", sends(BODY + b" that is all"), NO_JSON),
    Mode("a stream of events", sends(b"data: " + BODY + b"\n\ndata: [DONE]\n\n"), NO_JSON),
    # status codes
    Mode("status 400", says({"error": {"message": "prompt too long"}}, 400), "endpoint answered 400: prompt too long"),
    Mode("status 401", says({}, 401), "endpoint answered 401"),
    Mode("status 404 as a page", sends(b"<h1>no</h1>", 404), "endpoint answered 404: <h1>no</h1>"),
    Mode("status 422 as a list", says([{"loc": 1}], 422), "endpoint answered 422"),
    Mode("status 429 for ever", says({}, 429, "Retry-After: 0.01"), "endpoint answered 429", retries=2),
    Mode("status 500 with null", says(None, 500), "endpoint answered 500"),
    Mode("status 500 with half a character", sends(b'{"error": {"message": "\\ud83d"}}', 500), "endpoint answered 500"),
    Mode("status 503 twice", third_time, retries=2),
    Mode("status 599", says({}, 599), "endpoint answered 599"),
    Mode("status 204", writes(head(204)), NO_JSON),
    Mode("a bad request to be repeated", says({}, 400, "x-should-retry: true"), "endpoint answered 400", retries=1),
    Mode("max_tokens refused", learns),
    Mode("the key repeated", says({"error": {"message": f"bad key {KEY}"}}, 403), r"403: bad key \*\*\*"),
    Mode("a large error", sends(BIG, 500), "larger than 1 MiB"),
    # redirects
    Mode("redirect to another host", redirect("http://example.invalid/v1"), "redirects to another server"),
    Mode("redirect to another port", redirect("http://127.0.0.1:9/v1"), "redirects to another server"),
    Mode("redirect to a file", redirect("file:///etc/passwd"), "redirects to another server"),
    Mode("redirect to itself for ever", redirect("http://127.0.0.1:PORT/v1/chat/completions"), LOST),
    Mode("redirect to no address", redirect("http://[::1"), "redirects to what is no address"),
    # HTTP
    Mode("closed at once", writes(), LOST),
    Mode("no HTTP at all", writes(b"\x16\x03\x01\x02\x00" * 40), LOST),
    Mode("only a body", writes(BODY), LOST),
    Mode("closed after the head", writes(head(200, length=100)), LOST),
    Mode("a shorter body than told", writes(head(200, length=len(BODY) + 9) + BODY), LOST),
    Mode("a longer body than told", writes(head(200, length=20) + BODY), NO_JSON),
    Mode("a negative length", writes(head(200, "Content-Length: -5") + BODY), LOST),
    Mode("two lengths", writes(head(200, "Content-Length: 7", length=len(BODY)) + BODY), LOST),
    Mode("no length", writes(head() + BODY)),
    Mode("chunks", writes(chunked(BODY[:30], BODY[30:], b""))),
    Mode("chunks without an end", writes(chunked(BODY)), LOST),
    Mode("chunks of no size", writes(head(200, "Transfer-Encoding: chunked") + b"zz\r\nabc\r\n"), LOST),
    Mode("a header of 1 MB", writes(head(200, "X-Long: " + "x" * 1_000_000, length=len(BODY)) + BODY), LOST),
    Mode("a header of other bytes", sends(BODY, 200, "X-Name: \xe9\xff")),
    Mode("a header without a name", writes(head(200, ": nothing", length=len(BODY)) + BODY), LOST),
    Mode("a charset that nobody knows", sends(BODY, 200, "Content-Type: text/plain; charset=klingon")),
    # size
    Mode("a large body", sends(BODY[:-1] + BIG + b"}"), "larger than 1 MiB"),
    Mode("a body without an end", lambda request: (b"x" * 65536 for _ in repeat(0)), ENDLESS),
    Mode("an answer without an end", lambda request: _endless(), "larger than 1 MiB"),
    Mode("gzip", lambda request: packed(gzip.compress(BODY), "gzip")),
    Mode("deflate", lambda request: packed(zlib.compress(BODY), "deflate")),
    Mode("a small gzip of 64 MB", lambda request: packed(BOMB, "gzip"), "larger than 1 MiB"),
    Mode("gzip cut", lambda request: packed(gzip.compress(BODY)[:30], "gzip"), NO_JSON),
    Mode("gzip that is none", lambda request: packed(BODY, "gzip"), "cannot be unpacked"),
    Mode("gzip in gzip", lambda request: packed(gzip.compress(gzip.compress(BODY)), "gzip, gzip"), "packed as"),
    Mode("brotli", lambda request: packed(BODY, "br"), "packed as 'br'"),
    # time
    Mode("no answer", writes(5.0), LATE),
    Mode("a head and then nothing", writes(head(200, length=100), 5.0), LATE),
    Mode("a head byte by byte", lambda request: _slowly(head(200, length=len(BODY))), LATE),
    Mode("a body byte by byte", lambda request: [head(200, length=len(BODY)), *_slowly(BODY)], LATE),
    Mode("100 Continue for ever", lambda request: (b"HTTP/1.1 100 Continue\r\n\r\n" for _ in repeat(0)), ENDLESS),
    Mode("slow, but in time", writes(0.2, head(200, length=len(BODY)), 0.2, BODY)),
]
BOMB = gzip.compress(BODY[:-1] + b" " * (64 * 1024**2) + b"}")


def _endless() -> Iterator[bytes]:
    yield head()
    yield from repeat(b"x" * 65536)


def _slowly(data: bytes) -> Iterator[bytes | float]:
    for byte in data:
        yield bytes([byte])
        yield 0.1


@contextmanager
def hostile(mode: Mode) -> Iterator[str]:
    """The URL of a server that answers every chat request as `mode` says."""
    numbers = iter(range(1, 10_000))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line, length = self.rfile.readline(), 0
            while (header := self.rfile.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = json.loads(self.rfile.read(length) or b"{}")
            if not line:
                return
            try:
                for part in mode.answer(Request(next(numbers), body, self.server.server_address[1])):
                    if isinstance(part, bytes):
                        self.wfile.write(part)
                    elif over.wait(part):
                        return
            except (BrokenPipeError, ConnectionResetError):
                return  # the client has had enough

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, request: Any, address: Any) -> None:
            """A connection that breaks is what is tested."""

    over = threading.Event()
    with Threads(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            over.set()
            server.shutdown()
