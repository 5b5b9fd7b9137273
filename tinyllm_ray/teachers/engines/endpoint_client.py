"""Requests to an OpenAI-compatible server that cannot harm: an address, a key and limits in, JSON or ServerError out.

An answer has a deadline for all of it and a cap on its unpacked size; a redirect to another host is not followed. The
client of OpenAI repeats what may pass (no connection, 408, 409, 429, 5xx) with growing pauses.
"""

import asyncio
import json
import urllib.request
import zlib
from collections.abc import AsyncIterable
from typing import Any

import httpx
import openai
from pydantic import SecretStr

MIB = 1024**2
MAX_REDIRECTS = 3
REASON_LENGTH = 300  # characters of a server's own words that are kept
_NO_KEY = "none"  # the client of OpenAI wants a key even for a server that does not
_PACKED = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's window bits


class ServerError(Exception):
    """Why a request has no answer that can be used. `status` is the HTTP status where there is one."""

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class _Refused(openai.OpenAIError):
    """An answer that is not read to its end; the client of OpenAI hands such an error on without another try."""


class Server:
    """One server, for one event loop."""

    def __init__(self, url: str, *, key: SecretStr | None, timeout_s: float, max_retries: int, max_bytes: int) -> None:
        self._key = key.get_secret_value() if key else ""
        self._timeout_s = timeout_s
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=self._key or _NO_KEY,
            timeout=timeout_s,
            max_retries=max_retries,
            http_client=httpx.AsyncClient(  # type: ignore[arg-type] # taken, though its types name httpx2 alone
                transport=_BoundedTransport(url, timeout_s=timeout_s, max_bytes=max_bytes),
                headers={"Accept-Encoding": "gzip"},
                timeout=timeout_s,
                max_redirects=MAX_REDIRECTS,
                follow_redirects=True,
            ),
        )

    async def get(self, path: str) -> Any:
        return await self._send("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._send("POST", path, body)

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            if method == "GET":
                response = await self._client.get(path, cast_to=httpx.Response)
            else:
                response = await self._client.post(path, cast_to=httpx.Response, body=body)
        except openai.APITimeoutError:
            raise ServerError(f"endpoint timed out: no answer within {self._timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise ServerError(f"endpoint not reached: {self._plain(error.__cause__ or error)}") from None
        except openai.APIStatusError as error:
            said = self._plain(_message(error.body) or error.response.text)
            raise ServerError(f"endpoint answered {error.status_code}: {said}", status=error.status_code) from None
        except openai.OpenAIError as error:
            raise ServerError(f"endpoint answered badly: {self._plain(error)}") from None
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError) as error:
            raise ServerError(f"endpoint answered no JSON: {self._plain(error)}") from None

    def _plain(self, said: object) -> str:
        """A server's words without the key that it may repeat, short, and as text that can be stored."""
        text = str(said).encode("utf-8", "replace").decode()
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text[:REASON_LENGTH].split()) or type(said).__name__


class _BoundedTransport(httpx.AsyncBaseTransport):
    """Gives an answer only when all of it is there, in time, below the cap and from the host that was asked."""

    def __init__(self, url: str, *, timeout_s: float, max_bytes: int) -> None:
        address = httpx.URL(url)
        proxies = {} if urllib.request.proxy_bypass(address.host) else urllib.request.getproxies()
        self._inner = httpx.AsyncHTTPTransport(proxy=proxies.get(address.scheme))
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._inner.handle_async_request(request)
                try:
                    body = await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {self._timeout_s:g} s", request=request) from None
        _check_redirect(request.url, response)
        dropped = {b"content-encoding", b"content-length", b"transfer-encoding"}
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in dropped]
        return httpx.Response(response.status_code, headers=headers, content=body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _read(self, response: httpx.Response) -> bytes:
        """The unpacked body."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity", *_PACKED):
            raise _Refused(f"its body is packed as {encoding[:40]!r}, which was not asked for")
        unpack = zlib.decompressobj(_PACKED[encoding]) if encoding in _PACKED else None
        assert isinstance(response.stream, AsyncIterable)
        body = bytearray()
        async for part in response.stream:
            left = self._max_bytes + 1 - len(body)
            try:
                body += unpack.decompress(part, left) if unpack else part[:left]
            except zlib.error as error:
                raise _Refused(f"its body cannot be unpacked: {error}") from None
            if len(body) > self._max_bytes:
                raise _Refused(f"its body is larger than {self._max_bytes / MIB:g} MiB")
        return bytes(body)


def _check_redirect(asked: httpx.URL, response: httpx.Response) -> None:
    """A redirect may change the path on the host that was asked, or its http into https."""
    if not (300 <= response.status_code < 400 and "location" in response.headers):
        return
    try:
        target = asked.join(response.headers["location"])
    except httpx.InvalidURL as error:
        raise _Refused(f"it redirects to what is no address: {error}") from None
    same_port = target.port == asked.port or (asked.scheme, target.scheme) == ("http", "https")
    if target.host != asked.host or not same_port or target.scheme not in ("http", "https"):
        raise _Refused(f"it redirects to another server, {target.scheme}://{target.host}, which is not asked")


def _message(body: object) -> str:
    """OpenAI's form of an error, {"error": {"message": ...}}, which the client has opened already."""
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return body["message"]
    return ""
