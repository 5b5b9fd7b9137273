"""Source files of questions: a file anywhere in, its rows with their positions out, one at a time.

In: /data/obqa_train.json, https://host/train.jsonl, s3://bucket/train-*.parquet, hf://datasets/<id>/main/train-*.parquet
Out: (position from 1, row as a dict or the reason why it cannot be read, the start of its text)
"""

import codecs
import errno
import fnmatch
import io
import json
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm_ray import storage
from tinyllm_ray.config import UserError

_CHUNK = 1 << 20
_HTTP_TIMEOUT_S = 60
_WRAPPED = re.compile(r'\s*(?:\{\s*"questions"\s*:\s*)?\[')  # BioASQ's own files wrap their array
_BETWEEN = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class SourceRow:
    position: int  # line of a line file, place from 1 in an array or table
    value: Any
    problem: str = ""  # why there is no value
    text: str = ""  # the start of the row as read, where there is a problem


def absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def find(folder: str, pattern: str) -> list[str]:
    """The files that a name or a pattern with `*` means below a folder (or a full address); may be none."""
    uri = pattern if "://" in pattern or pattern.startswith("/") else storage.join(folder, pattern)
    if "*" in uri:
        if _is_http(uri):
            raise UserError(f"dataset.splits: {uri} has a `*`, but files behind http cannot be listed; name one file")
        parent = uri.partition("*")[0].rpartition("/")[0]
        return [name for name in storage.list_files(parent) if fnmatch.fnmatchcase(name, uri)]
    try:
        stamp(uri)
    except FileNotFoundError:
        return []
    return [uri]


def stamp(uri: str) -> str:
    """What changes when the file does. Raises FileNotFoundError."""
    if not _is_http(uri):
        return storage.stamp(uri)
    with _open_http(urllib.request.Request(uri, method="HEAD")) as response:
        return " ".join(str(response.headers[name]) for name in ("Content-Length", "ETag", "Last-Modified"))


def iterate(uri: str) -> Iterator[SourceRow]:
    """Rows of a JSON lines file, a JSON array or a Parquet file, told apart by what is in it.

    A broken line is yielded with its problem; a file that is broken as a whole raises UserError.
    """
    if not _is_http(uri):
        yield from _iterate_file(uri, named=uri)
        return
    with tempfile.NamedTemporaryFile(suffix=".download") as local:
        with _open_http(urllib.request.Request(uri)) as response:
            shutil.copyfileobj(response, local, _CHUNK)
        local.flush()
        yield from _iterate_file(local.name, named=uri)


def _iterate_file(uri: str, *, named: str) -> Iterator[SourceRow]:
    with storage.open_file(uri) as raw:
        start = raw.read(4096)
        raw.seek(0)
        if start[:4] == b"PAR1":
            yield from _parquet(raw, named)
        elif start[:2] == b"\x1f\x8b":
            with pa.CompressedInputStream(raw, "gzip") as stream:
                yield from _json(io.BufferedReader(stream, _CHUNK), named)
        else:
            yield from _json(io.BufferedReader(raw, _CHUNK), named)


def _json(stream: io.BufferedReader, named: str) -> Iterator[SourceRow]:
    start = stream.peek(4096)[:4096].decode("utf-8-sig", errors="replace")
    return _array(stream, named) if _WRAPPED.match(start) else _lines(stream)


def _lines(stream: io.BufferedReader) -> Iterator[SourceRow]:
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield SourceRow(number, json.loads(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            yield SourceRow(number, None, f"broken UTF-8 at byte {error.start + 1}", _shown(line))
        except (ValueError, RecursionError) as error:
            yield SourceRow(number, None, f"broken JSON: {error}", _shown(line))


def _array(stream: io.BufferedReader, named: str) -> Iterator[SourceRow]:
    """One value after the other; bytes that are not UTF-8 become lone surrogates, which the row's check refuses."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
    text, position, size = "", 0, _CHUNK

    def more() -> bool:
        nonlocal text, size
        chunk = stream.read(size)
        size *= 2  # a value longer than the buffer is parsed a few times, not once for every chunk
        text += decoder.decode(chunk, final=not chunk)
        return bool(chunk)

    more()
    wrapped, at = text.lstrip().startswith("{"), _WRAPPED.match(text).end()
    while True:
        at = _BETWEEN.match(text, at).end()
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip() and not wrapped:
                raise UserError(f"{named} has text after its JSON array (element {position}); repair the file")
            return
        try:
            value, end = _DECODER.raw_decode(text, at)
            if end == len(text) and more():  # a number may go on in the next chunk
                continue
        except (ValueError, RecursionError) as error:
            if more():
                continue
            raise UserError(
                f"{named} is not a whole JSON array: element {position + 1} cannot be read ({error}); repair the file"
            ) from None
        position, size = position + 1, _CHUNK
        yield SourceRow(position, value)
        at = end
        if at > _CHUNK:
            text, at = text[at:], 0


def _parquet(raw: pa.NativeFile, named: str) -> Iterator[SourceRow]:
    try:
        position = 0
        for batch in pq.ParquetFile(raw).iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                position += 1
                yield SourceRow(position, value)
    except pa.ArrowException as error:
        raise UserError(f"{named} is not a whole Parquet file: {error}; repair the file") from None


def _is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _open_http(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(errno.ENOENT, "no such file", request.full_url) from None
        raise UserError(f"{request.full_url} cannot be read: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise UserError(f"{request.full_url} cannot be read: {error.reason}") from None


def _shown(line: bytes) -> str:
    return line[:200].decode("utf-8", errors="replace").rstrip("\n")
