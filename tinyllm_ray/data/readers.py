"""Rows of one open file: JSON lines, a JSON array or object, CSV, TSV, Parquet or Arrow, told apart by what is in it.

In: a seekable binary file    Out: SourceRow(position=1, value={"question": "What floats?", ...}), one at a time
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm_ray.config import UserError

SUPPORTED = (
    "JSON lines, a JSON array or object, CSV, TSV, Parquet and Arrow files, each also as .gz, .bz2 or .zst, "
    "with text in UTF-8 or in UTF-16 with a byte order mark"
)
_CHUNK = 1 << 20
_TABLE_ROWS = 1024
_BETWEEN = re.compile(r"[\s,]*")
_UNNAMED = {"id", "context"}  # columns that are read without being named
_DECODER = json.JSONDecoder()
_DELIMITERS = ",;\t|"
_PARTS_OF_A_ROW = {"choices", "options", "answers", "candidates", "endings", "targets", "snippets", "alternatives"}
_ARROW_STREAM = b"\xff\xff\xff\xff"  # as the hub's library saves its data sets
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive (or an Excel sheet)",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x04": "a pickle",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
}


@dataclass(frozen=True)
class SourceRow:
    position: int  # line of a line file, place from 1 in an array or table
    value: Any
    problem: str = ""  # why there is no value
    text: str = ""  # the start of the row as read, where there is a problem


@dataclass(frozen=True)
class Unreadable:
    """A cell of a table that is no value, such as text that is not UTF-8; it matters only where it is used."""

    reason: str


def read_rows(file: BinaryIO, *, named: str, separator: str = "", columns: Collection[str] = ()) -> Iterator[SourceRow]:
    """A broken line is yielded with its problem; a file that is broken as a whole raises UserError.

    `separator`: of a CSV file ("," is looked up in its header); "" for the other kinds. `columns`: those of a table
    to read beside `id` and `context`, where it has them all; else all of its columns are read.
    """
    start = file.read(64)
    file.seek(0)
    for magic, kind in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise UserError(f"{named} is {kind}; supported are {SUPPORTED}")
    if start.startswith(b"PAR1"):
        return _parquet(file, named, columns)
    if start.startswith(b"ARROW1"):
        reader = pa.ipc.open_file(file)
        return _table(reader.get_batch(number) for number in range(reader.num_record_batches))
    if start.startswith(_ARROW_STREAM):
        return _table(iter(pa.ipc.open_stream(file)))
    buffered = io.BufferedReader(cast(Any, file), _CHUNK)
    if separator:
        return _separated(buffered, named, separator)
    return _json(buffered, named)


def _json(stream: io.BufferedReader, named: str) -> Iterator[SourceRow]:
    start = stream.peek(4096)[:4096].decode("utf-8-sig", errors="replace").lstrip()
    if start.startswith("["):
        return _array(stream, named)
    if start.startswith("{") and _is_one_object(stream):
        value = _parsed(stream.read())
        stream.seek(0)
        if isinstance(value, dict):
            return _inside(value, named)
    return _lines(stream)


def _is_one_object(stream: io.BufferedReader) -> bool:
    """Whether a JSON object goes over the whole file, in one line or several, and not over one line of many."""
    lines = (line for line in stream if line.strip())
    first, second = next(lines, b""), next(lines, None)
    stream.seek(0)
    return second is None or (_parsed(first) is None and _parsed(second) is None)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.removeprefix(codecs.BOM_UTF8), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _inside(value: dict[str, Any], named: str) -> Iterator[SourceRow]:
    """The rows of {"questions": [{...}, ...]} or {"21645374": {...}, ...}, whose keys are ids; else one row."""
    lists = [
        key
        for key, rows in value.items()
        if key not in _PARTS_OF_A_ROW and isinstance(rows, list) and rows and all(isinstance(r, dict) for r in rows)
    ]
    if len(lists) > 1:
        raise UserError(
            f"{named} holds several lists of rows: {', '.join(lists)}; write each split into a file of its own and "
            "name the files in dataset.splits"
        )
    rows: list[Any] = [value]
    if lists:
        rows = value[lists[0]]
    elif value and all(isinstance(row, dict) and len(row) > 1 for row in value.values()):
        rows = [{"id": key, **row} for key, row in value.items()]
    for position, row in enumerate(rows, start=1):
        yield SourceRow(position, row)


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
    at = text.index("[") + 1
    while True:
        while (at := _BETWEEN.match(text, at).end()) == len(text) and more():  # type: ignore[union-attr]
            pass
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip():
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


def _separated(stream: io.BufferedReader, named: str, separator: str) -> Iterator[SourceRow]:
    """Rows by the names in the first line; an empty cell is null."""
    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    if separator == ",":
        header = text.readline()
        separator = max(_DELIMITERS, key=lambda mark: (header.count(mark), mark == ","))
        text.seek(0)
    reader = csv.reader(text, delimiter=separator, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise UserError(
                    f"{named}: a quote is opened in line {line} and never closed; repair the file"
                ) from None
            yield SourceRow(line, None, f"broken CSV: {error}")
            continue
        if not names:
            names = _header(cells, named)
        elif len(cells) == len(names):
            yield SourceRow(line, {name: cell or None for name, cell in zip(names, cells, strict=True)})
        elif cells:
            reason = f"broken CSV: {len(cells)} cells where the first line names {len(names)} columns"
            yield SourceRow(line, None, reason, separator.join(cells)[:200])


def _header(cells: list[str], named: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{named} has two columns named {twice[0]!r}; rename one of them")
    return names


def _parquet(file: BinaryIO, named: str, columns: Collection[str]) -> Iterator[SourceRow]:
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        there = set(table.schema_arrow.names)
        wanted = [*columns, *(_UNNAMED & there - set(columns))] if columns and set(columns) <= there else None
        yield from _table(table.iter_batches(batch_size=_TABLE_ROWS, columns=wanted))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{named} is not a whole Parquet file: {error}; repair the file") from None


def _table(batches: Iterator[pa.RecordBatch]) -> Iterator[SourceRow]:
    position = 0
    for batch in batches:
        for value in _values(batch):
            position += 1
            yield SourceRow(position, value)


def _values(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, ArithmeticError, pa.ArrowException):  # not UTF-8, or a time that Python cannot hold
        names = batch.schema.names
        cells = [[_cell(value) for value in column] for column in batch.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py(maps_as_pydicts="lossy")
    except (ValueError, ArithmeticError, pa.ArrowException) as error:
        return Unreadable(str(error))


def _shown(line: bytes) -> str:
    return line[:200].decode("utf-8", errors="replace").rstrip("\n")
