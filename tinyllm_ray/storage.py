"""Files anywhere: a local absolute path or a cloud URI (s3://, gs://, file://) in, bytes, JSON or Arrow tables out.

Writes are atomic (a reader sees the whole file or none); how long a storage is waited for stands in `patience.py`.
"""

import errno
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tinyllm_ray.patience import CONTENT_S, LISTING_S, RETRY_S, first_line, is_remote, retry
from tinyllm_ray.redact import redact_text
from tinyllm_ray.schema.base import STORAGE_SCHEMES, UserError, did_you_mean

GOOGLE_TRIES_S = 10


def nearest_path(given: str) -> str:
    """A sentence that names the file or folder of this machine that is nearest to what was given; empty for none."""
    path = Path(given)
    there = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    return "" if "://" in given else did_you_mean(given, there)


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *parts])


def is_local(uri: str) -> bool:
    return not is_remote(uri)


def local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def exists(uri: str) -> bool:
    return _info(uri).type != pafs.FileType.NotFound


def is_folder(uri: str) -> bool:
    return _info(uri).type == pafs.FileType.Directory


def list_files(folder: str, suffix: str = "") -> list[str]:
    """All files below a folder, sorted; empty where the folder does not exist. Files being written are left out."""
    return list(_listed(folder, suffix))


def read_bytes(uri: str) -> bytes:
    """Raises FileNotFoundError."""
    filesystem, path = _resolve(uri)

    def read() -> bytes:
        with filesystem.open_input_stream(path, compression=None) as stream:
            return stream.read()

    return retry(read, uri, answer_s=CONTENT_S)


def write_bytes(uri: str, data: bytes, *, patience_s: float = RETRY_S) -> None:
    """Atomic: a temporary file renamed on local disks, one put on object stores."""
    _write(uri, lambda stream: stream.write(data), patience_s=patience_s)


def open_file(uri: str) -> pa.NativeFile:
    """A file open for reading at any position. Raises FileNotFoundError."""
    filesystem, path = _resolve(uri)
    return retry(lambda: filesystem.open_input_file(path), uri)


def stamp(uri: str) -> str:
    """Size and time of change, to see whether a file is still the one that was read. Raises FileNotFoundError."""
    info = _info(uri)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, "no such file", uri)
    return f"{info.size} bytes, {info.mtime_ns}"


def modified_s(uri: str) -> float:
    """When a file was last written, by the storage's own clock, in seconds since 1970. Raises FileNotFoundError."""
    info = _info(uri)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, "no such file", uri)
    return info.mtime_ns / 1e9


def list_stamps(folder: str, suffix: str = "") -> dict[str, str]:
    """`list_files` with the stamp of each, in one listing."""
    return {uri: f"{info.size} bytes, {info.mtime_ns}" for uri, info in _listed(folder, suffix).items()}


def list_sizes(folder: str, suffix: str = "") -> dict[str, int]:
    """`list_files` with the bytes of each, in one listing."""
    return {uri: info.size for uri, info in _listed(folder, suffix).items()}


def _listed(folder: str, suffix: str) -> dict[str, pafs.FileInfo]:
    filesystem, path = _resolve(folder)
    everything = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    infos = retry(lambda: filesystem.get_file_info(everything), folder, answer_s=LISTING_S)
    found = {
        join(folder, info.path[len(path.rstrip("/")) + 1 :]): info
        for info in infos
        if info.type == pafs.FileType.File and info.path.endswith(suffix) and not info.base_name.startswith(".tmp-")
    }
    return dict(sorted(found.items()))


def size(uri: str) -> int:
    """Bytes of a file; 0 where it is not there."""
    return _info(uri).size or 0


def put_file(source: Path, uri: str) -> None:
    """Copy a local file in pieces; as atomic as `write_bytes`, for files that should not be held in memory."""

    def fill(stream: pa.NativeFile) -> None:
        with source.open("rb") as data:
            shutil.copyfileobj(data, stream, 1 << 20)

    _write(uri, fill)


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Raises FileNotFoundError, or pa.ArrowException or OSError where the file is damaged."""
    filesystem, path = _resolve(uri)

    def read() -> pa.Table:
        return pq.read_table(path, columns=columns, filesystem=filesystem, page_checksum_verification=True)

    return retry(read, uri, answer_s=CONTENT_S)


def read_metadata(uri: str) -> pq.FileMetaData:
    """What a Parquet file says of its columns; raises as `read_table` does."""
    filesystem, path = _resolve(uri)
    return retry(lambda: pq.read_metadata(path, filesystem=filesystem), uri)


def write_table(uri: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_bytes(uri, buffer.getvalue())


def upload_folder(local: str | Path, uri: str) -> None:
    for path in sorted(Path(local).rglob("*")):
        if path.is_file():
            write_bytes(join(uri, path.relative_to(local).as_posix()), path.read_bytes())


def local_folder(uri: str) -> Path:
    """A folder that can be memory-mapped: itself where local, else a copy kept on this machine."""
    if is_local(uri):
        return local_path(uri)
    target = Path(tempfile.gettempdir()) / "tinyllm_ray" / uri.replace("://", "/")
    if not target.is_dir():
        partial = target.with_name(f".tmp-{uuid.uuid4().hex}")
        for name in list_files(uri):
            path = partial / name.removeprefix(uri.rstrip("/") + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read_bytes(name))
        try:
            partial.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return target


def remove(uri: str) -> None:
    """One file; no error where it is not there."""
    filesystem, path = _resolve(uri)
    if exists(uri):
        retry(lambda: filesystem.delete_file(path), uri)


def remove_folder(uri: str) -> None:
    filesystem, path = _resolve(uri)
    if exists(uri):
        retry(lambda: filesystem.delete_dir(path), uri)


def _write(uri: str, fill: Callable[[pa.NativeFile], Any], *, patience_s: float = RETRY_S) -> None:
    filesystem, path = _resolve(uri, patience_s=patience_s)
    folder, _, name = path.rpartition("/")
    local = isinstance(filesystem, pafs.LocalFileSystem)
    target = f"{folder}/.tmp-{uuid.uuid4().hex}-{name}" if local else path

    def write() -> None:
        if local:
            filesystem.create_dir(folder, recursive=True)
        try:
            with filesystem.open_output_stream(target, compression=None) as stream:
                fill(stream)
            if local:
                os.replace(target, path)
        finally:
            if local and os.path.exists(target):
                os.unlink(target)

    retry(write, uri, patience_s=patience_s, answer_s=CONTENT_S)


def _resolve(uri: str, *, patience_s: float = RETRY_S) -> tuple[pafs.FileSystem, str]:
    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(uri)
    try:
        return retry(lambda: pafs.FileSystem.from_uri(_bounded(uri)), uri, patience_s=patience_s)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeEncodeError) as error:
        raise UserError(
            f"{redact_text(uri)} is no address of storage: {first_line(error)}; allowed is a path, or "
            f"{', '.join(f'{scheme}://' for scheme in STORAGE_SCHEMES)}"
        ) from None


def _bounded(uri: str) -> str:
    """Google's client itself tries for a quarter of an hour, and says nothing meanwhile."""
    google = uri.startswith(("gs://", "gcs://")) and "?" not in uri
    return f"{uri}?retry_limit_seconds={GOOGLE_TRIES_S}" if google else uri


def _info(uri: str) -> pafs.FileInfo:
    filesystem, path = _resolve(uri)
    return retry(lambda: filesystem.get_file_info(path), uri)
