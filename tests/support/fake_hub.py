"""A Hugging Face hub as far as uploads ask one, on loopback: what was put into its repositories is in `files`."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict] = []
        self.files: dict[str, dict[str, bytes]] = {}  # by "models/owner/name"
        self.refuses = 0  # a status with which a new repository is refused

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created.append(asked)
            self._answer(
                {"url": f"{self.server.url}/{asked['organization']}/{asked['name']}"}, self.server.refuses or 200
            )
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in path:
            repository = self.server.files.setdefault(path.removeprefix("/api/").partition("/commit/")[0], {})
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    repository[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            name = path.removeprefix("/api/").removeprefix("models/").partition("/commit/")[0]
            self._answer({"commitUrl": f"{self.server.url}/{name}/commit/1", "commitOid": "1", "success": True})
        else:  # the check of a card's head
            self._answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self._answer({"sha": "1", "id": "x"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, body: dict, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
