"""The rationale store: Rationale rows of one teacher for one dataset, as Parquet, keyed by what made them.

Layout: <folder>/manifest.json and <folder>/<split>/part-*.parquet; parts are written whole and never changed.
A question that failed and was tried again has several rows of one key: the one without a failure counts.
"""

import errno
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.redact import redact
from tinyllm_ray.rows import SOFT_COLUMNS, Question, Rationale, schema_of, to_table

PLAIN_COLUMNS = [name for name in schema_of(Rationale).names if name not in SOFT_COLUMNS]
_READERS = 8  # parts that are fetched at once
_REMEDY = "delete this file: the next run writes again what was in it; an imported store is imported again"


@dataclass(frozen=True)
class StoreId:
    """Which of an experiment's stores is meant."""

    teacher: str
    answers: bool = False  # the teacher's own answers, made without teacher forcing; else its rationales

    def __str__(self) -> str:
        return f"{self.teacher} answers" if self.answers else self.teacher


def store_folder(output_dir: str, manifest: dict[str, Any]) -> str:
    """<output_dir>/stores/<dataset>/<teacher>/<digest of the manifest>: other settings, another folder."""
    return storage.join(output_dir, "stores", manifest["dataset"], manifest["teacher"], digest(manifest))


def row_key(question: Question, sample: int, *, settings: str, teacher_forcing: bool) -> str:
    """Key of one rationale: the question's content, the sample and the digest of the store's manifest."""
    shown = [question.task, question.context, question.question, question.choices]
    answer = question.answer if teacher_forcing else None
    return digest([question.question_id, *shown, answer, sample, settings], 24)


def open_store(folder: str, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new store without its secrets, or check it against the one that is there.

    A damaged manifest is written again. Raises UserError with the difference where they disagree: rows of other
    settings are never mixed.
    """
    uri = storage.join(folder, "manifest.json")
    manifest = redact(manifest)
    try:
        found = storage.read_json(uri)
    except (FileNotFoundError, ValueError):
        found = None
    if not isinstance(found, dict):
        storage.write_json(uri, manifest)
        return
    if found != manifest:
        raise UserError(
            f"the store {folder} was written by another configuration:\n{_difference(found, manifest)}\n"
            "use another output.dir, or set the named keys back"
        )


def read_manifest(folder: str) -> dict[str, Any]:
    uri = storage.join(folder, "manifest.json")
    try:
        manifest = storage.read_json(uri)
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no manifest.json, so it is no rationale store; check teachers.*.store"
        ) from None
    except ValueError as error:
        raise UserError(f"{uri} is damaged ({error}); {_REMEDY}") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{uri} holds {type(manifest).__name__}, not a store's settings; {_REMEDY}")
    return manifest


def append(folder: str, split: str, rows: list[Rationale]) -> str:
    """Write one part, named by its rows' keys, so that a repeated write of the same rows replaces itself."""
    name = digest([[row.key, bool(row.failure)] for row in rows], 24)
    uri = storage.join(folder, split, f"part-{name}.parquet")
    table = to_table(rows, Rationale)
    soft = any(len(row.token_ids) for row in rows)
    storage.write_table(uri, table if soft else table.select(PLAIN_COLUMNS))
    return uri


def read(folder: str, split: str, columns: list[str] | None = None, *, failures: bool = False) -> pa.Table:
    """All rows of a split, each key once, by name of part; `failures=True` adds keys that only failed.

    Without `columns` all but those of soft targets.
    """
    wanted = columns or PLAIN_COLUMNS
    table = _parts(folder, split, list(dict.fromkeys([*wanted, "key", "failure"])))
    failed = pc.not_equal(table["failure"], "")
    good = _first_of_key(table.filter(pc.invert(failed)))
    if failures:
        good_keys = pa.array(good["key"].to_pylist(), pa.string())
        only_failed = pc.and_(failed, pc.invert(pc.is_in(table["key"], value_set=good_keys)))
        good = pa.concat_tables([good, _first_of_key(table.filter(only_failed))])
    return good.select(wanted)


def iterate(folder: str, split: str, columns: list[str], *, rows: int = 65_536) -> Iterator[pa.Table]:
    """What `read` returns, in pieces, so that memory does not grow with the texts; at least one piece."""
    uris = storage.list_files(storage.join(folder, split), ".parquet")
    keys = _tables(uris, ["key", "failure"])
    good = np.flatnonzero(pc.equal(keys["failure"], "").to_numpy())
    mask = np.zeros(len(keys), dtype=bool)
    mask[good[_first_mask(keys["key"].filter(pc.equal(keys["failure"], "")))]] = True
    empty = _tables([], columns)
    held, first = [empty], 0
    for uri in uris:
        table = read_part(uri, columns)
        held.append(table.filter(pa.array(mask[first : first + len(table)])))
        first += len(table)
        if sum(map(len, held)) >= rows:
            yield pa.concat_tables(held, promote_options="default")
            held = [empty]
    if len(held) > 1 or not uris:
        yield pa.concat_tables(held, promote_options="default")


def first_answers(folder: str, split: str) -> dict[str, str]:
    """Question id -> the answer that the teacher's first text states, as far as it states one."""
    rows = read(folder, split, ["question_id", "sample", "predicted_answer"])
    rows = rows.filter(pc.and_(pc.equal(rows["sample"], 0), pc.not_equal(rows["predicted_answer"], "")))
    return dict(zip(rows["question_id"].to_pylist(), rows["predicted_answer"].to_pylist(), strict=True))


def every_answer(folder: str, split: str) -> dict[str, list[str]]:
    """Question id -> what each of the teacher's texts states, by sample, empty where it states nothing."""
    rows = read(folder, split, ["question_id", "sample", "predicted_answer"]).sort_by("sample").to_pylist()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["question_id"], []).append(row["predicted_answer"])
    return found


def count_twice(folder: str, split: str) -> int:
    """Rows without a failure that are in the store more than once."""
    table = _parts(folder, split, ["key", "failure"])
    keys = table.filter(pc.equal(table["failure"], ""))["key"]
    return len(keys) - pc.count_distinct(keys).as_py()


def content_digest(folder: str, *, say: Callable[[str], None] = lambda _: None) -> str:
    """Digest of the manifest and of every rationale, in whatever parts and order they are.

    A part is read once and known again by its size and time. `say` gets a sentence for each part that was known and
    holds something else now.
    """
    manifest, uri = read_manifest(folder), storage.join(folder, "content.json")
    known, parts = _known_parts(uri), {}
    for part, stamp in storage.list_stamps(folder, ".parquet").items():
        name = part.removeprefix(folder.rstrip("/") + "/")
        same = known.get(name, {}).get("stamp") == stamp
        parts[name] = known[name] if same else {"stamp": stamp, "sum": _content_sum(part)}
        if name in known and known[name]["sum"] != parts[name]["sum"]:
            say(f"the store {folder} has changed since it was last read: {name} holds other rationales")
    for name in sorted(set(known) - set(parts)):
        say(f"the store {folder} has changed since it was last read: {name} is gone")
    if parts != known:
        _remember(uri, parts)
    return digest([manifest, f"{sum(int(part['sum'], 16) for part in parts.values()) % 2**128:x}"])


def _known_parts(uri: str) -> dict[str, dict[str, str]]:
    try:
        known = storage.read_json(uri)
        return {name: {"stamp": part["stamp"], "sum": f"{int(part['sum'], 16):x}"} for name, part in known.items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # absent or damaged: the parts are read again


def _remember(uri: str, parts: dict[str, dict[str, str]]) -> None:
    try:
        storage.write_json(uri, parts)
    except PermissionError:
        return  # somebody else's store is read again each time
    except OSError as error:
        if error.errno != errno.EROFS:
            raise


def _content_sum(part: str) -> str:
    """The sum of the hashes of a part's rationales, which does not depend on how rows are dealt to parts."""
    total, table = 0, read_part(part, [*PLAIN_COLUMNS, *SOFT_COLUMNS])
    soft = [table[name] for name in SOFT_COLUMNS if name in table.column_names]
    for number, row in enumerate(table.select(PLAIN_COLUMNS).to_pylist()):
        if not row["failure"]:
            data = json.dumps(list(row.values()), ensure_ascii=False).encode("utf-8", errors="surrogatepass")
            data += b"".join(array_of(column[number]).tobytes() for column in soft)
            total += int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "little")
    return f"{total % 2**128:x}"


def _parts(folder: str, split: str, columns: list[str]) -> pa.Table:
    return _tables(storage.list_files(storage.join(folder, split), ".parquet"), columns)


def _tables(uris: list[str], columns: list[str]) -> pa.Table:
    empty = pa.schema([schema_of(Rationale).field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *_read_parts(uris, columns)], promote_options="default")


def _read_parts(uris: list[str], columns: list[str]) -> Iterator[pa.Table]:
    """In their order; several are fetched at once, since on an object store each takes its time to answer."""
    with ThreadPoolExecutor(_READERS) as threads:
        yield from threads.map(functools.partial(read_part, columns=columns), uris)


def read_part(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Those of soft targets only where the part has them. Raises UserError where the part is damaged."""
    try:
        if columns and not set(columns).isdisjoint(SOFT_COLUMNS):
            there = storage.read_metadata(uri).schema.to_arrow_schema().names
            columns = [name for name in columns if name in there or name not in SOFT_COLUMNS]
        return storage.read_table(uri, columns)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"the store's part {uri} is damaged ({error}); {_REMEDY}") from None


def array_of(cell: pa.ListScalar) -> np.ndarray:
    """A list of numbers in a table."""
    return cell.values.to_numpy() if cell.is_valid else np.zeros(0)


def soft_size(folder: str, split: str) -> dict[str, int]:
    """Of the soft targets of a split: rows and tokens that have them, and the bytes that they take on disk."""
    size = {"rows": 0, "tokens": 0, "bytes": 0}
    for uri in storage.list_files(storage.join(folder, split), ".parquet"):
        metadata = storage.read_metadata(uri)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = [group.column(i) for i in range(group.num_columns)]
            size["bytes"] += sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith(SOFT_COLUMNS))
        if "token_ids" in metadata.schema.to_arrow_schema().names:
            lengths = pc.list_value_length(read_part(uri, ["token_ids"])["token_ids"])
            size["rows"] += pc.sum(pc.greater(lengths, 0)).as_py() or 0
            size["tokens"] += pc.sum(lengths).as_py() or 0
    return size


def _first_of_key(table: pa.Table) -> pa.Table:
    """A mask, not a `take`, which would gather more text than one Arrow array may hold."""
    return table.filter(pa.array(_first_mask(table["key"])))


def _first_mask(keys: pa.ChunkedArray) -> np.ndarray:
    positions = pa.table({"key": keys, "position": np.arange(len(keys))})
    first = positions.group_by("key").aggregate([("position", "min")])["position_min"].to_numpy()
    mask = np.zeros(len(keys), dtype=bool)
    mask[first] = True
    return mask


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    changed = [key for key in sorted(set(found) | set(wanted)) if found.get(key) != wanted.get(key)]
    return "\n".join(
        f"  {key}: stored {json.dumps(found.get(key))}, configured {json.dumps(wanted.get(key))}" for key in changed
    )
