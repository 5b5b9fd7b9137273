"""Source files of questions: a file anywhere in, its rows with their positions out, one at a time.

In: /data/obqa_train.json, https://host/train.csv.gz, s3://bucket/train-*.parquet, hf://datasets/<id>/main/train-*.parquet
"""

import codecs
import errno
import fnmatch
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data.readers import SUPPORTED, SourceRow, read_rows

SUFFIXES = ("jsonl", "json", "ndjson", "csv", "tsv", "parquet", "arrow")
_PACKED = ("", ".gz", ".bz2", ".zst")
_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_REJECTED = ".rejected.jsonl"  # what this package sets aside, beside the questions that it keeps
_CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_CHUNK = 1 << 20
_HTTP_TIMEOUT_S = 60


def absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def is_data(name: str) -> bool:
    """Whether a file's name is that of rows, packed or not, and not of what the hub's tools keep beside them."""
    if name.rpartition("/")[2] in _NOT_ROWS or name.endswith(_REJECTED):
        return False
    return name.lower().endswith(tuple(f".{suffix}{packed}" for suffix in SUFFIXES for packed in _PACKED))


def find(folder: str, pattern: str) -> list[str]:
    """The files that a name, a pattern with `*` or `?` or a folder means below `folder`; may be none."""
    uri = pattern if "://" in pattern or pattern.startswith("/") else storage.join(folder, pattern)
    try:
        return _find(uri)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # no permission, no network, a name that no storage takes
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{uri[:200]!r} cannot be looked up: {reason}; check dataset.path and dataset.splits") from None


def _find(uri: str) -> list[str]:
    if _is_http(uri):
        if "*" in uri:
            raise UserError(
                f"dataset.splits: {uri} has a `*`, but files behind http cannot be listed; name each file in a list"
            )
        return [uri] if _is_there(uri) else []
    if storage.is_folder(uri):
        return [name for name in storage.list_files(uri) if is_data(name)]
    if _is_there(uri):
        return [uri]
    if "*" in uri or "?" in uri:
        parent = uri[: min(uri.find(mark) for mark in "*?" if mark in uri)].rpartition("/")[0]
        return [name for name in storage.list_files(parent) if fnmatch.fnmatchcase(name, uri)]
    return []


def stamp(uri: str) -> str:
    """What changes when the file does. Raises FileNotFoundError."""
    if not _is_http(uri):
        return storage.stamp(uri)
    with _open_http(urllib.request.Request(uri, method="HEAD")) as response:
        return " ".join(str(response.headers[name]) for name in ("Content-Length", "ETag", "Last-Modified"))


def iterate(uri: str, *, form: str = "", columns: Collection[str] = ()) -> Iterator[SourceRow]:
    """The rows of one file; `form` csv or tsv reads it as such whatever its name says.

    A broken line is yielded with its problem; a file that is broken as a whole raises UserError.
    """
    try:
        with ExitStack() as held:
            file = _as_utf8(_unpacked(_open(uri, held), held), held)
            yield from read_rows(file, named=uri, separator=_separator(uri, form), columns=columns)
    except FileNotFoundError:
        raise UserError(f"there is no file {uri}; check dataset.path and dataset.splits") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{uri} cannot be read: {error}; repair the file (supported are {SUPPORTED})") from None


def _separator(uri: str, form: str) -> str:
    name = uri.partition("?")[0].lower()
    for packed in _PACKED[1:]:
        name = name.removesuffix(packed)
    return _SEPARATORS.get(f".{form}") or _SEPARATORS.get(Path(name).suffix, "")


def _open(uri: str, held: ExitStack) -> BinaryIO:
    if not _is_http(uri):
        return cast(BinaryIO, held.enter_context(storage.open_file(uri)))
    with _open_http(urllib.request.Request(uri)) as response:
        return _spilled(_chunks(response), held)


def _unpacked(file: BinaryIO, held: ExitStack) -> BinaryIO:
    start = _start(file)
    for magic, codec in _CODECS.items():
        if start.startswith(magic):
            return _spilled(_chunks(pa.CompressedInputStream(file, codec)), held)
    return file


def _as_utf8(file: BinaryIO, held: ExitStack) -> BinaryIO:
    if not _start(file).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return file
    texts = codecs.iterdecode(_chunks(file), "utf-16")
    return _spilled((text.encode("utf-8", errors="surrogatepass") for text in texts), held)


def _start(file: BinaryIO) -> bytes:
    start = file.read(8)
    file.seek(0)
    return start


def _chunks(stream: Any) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _spilled(chunks: Iterable[bytes], held: ExitStack) -> BinaryIO:
    """A stream as a temporary file that can be read from any place."""
    target = held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (held closes it)
    target.writelines(chunks)
    target.seek(0)
    return cast(BinaryIO, target)


def _is_there(uri: str) -> bool:
    try:
        stamp(uri)
    except FileNotFoundError:
        return False
    return True


def _is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _open_http(request: urllib.request.Request) -> Any:
    named = request.full_url  # as the experiment writes it, with ${NAME} for a secret
    request.full_url = _with_variables(named)
    try:
        return urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(errno.ENOENT, "no such file", named) from None
        raise UserError(f"{named} cannot be read: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise UserError(f"{named} cannot be read: {error.reason}") from None


def _with_variables(address: str) -> str:
    """${NAME} replaced by the environment variable's value."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"{address}: the environment variable {match[1]} is not set")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, address)
